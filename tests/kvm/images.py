"""The files that the host machine boots from.

| folder | content | built again when |
|---|---|---|
| `kernel-*` | `vmlinux`, `boot.cpio`, `modules/`: the distribution's cloud kernel with all its modules | the kernel's version changes |
| `root-*` | `root.ext4`: a system with QEMU and Python | the package list changes |
| `data-*` | `data.ext4`: guest images, Python packages, kernel modules, Firecracker | one of them changes |
"""

from __future__ import annotations

import compileall
import importlib.metadata
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from tests.kvm import firecracker
from tests.kvm.cache import built, digest_of
from wrenn.base.units import GIB
from wrenn.linux import apt
from wrenn.linux.command import run
from wrenn.storage.images import load_images
from wrenn.storage.images.bzimage import unpack_vmlinux
from wrenn.storage.images.cpio import archive, character_device, directory, regular
from wrenn.storage.images.distributions import this_distribution
from wrenn.storage.images.kernel import newest_version
from wrenn.storage.images.recipe import load_recipe
from wrenn.storage.images.template import build_template, mkfs_arguments

_STEP_TIMEOUT_S: Final = 300.0
_PACKAGES: Final = (
    "bash", "dmsetup", "e2fsprogs", "iproute2", "kmod", "nftables", "procps", "python3", "qemu-system-x86", "qemu-utils",
    "sudo", "util-linux",
)  # fmt: skip
_DATA_SIZE_B: Final = 16 * GIB
# Loaded before the root is found, in this order, with what they need.
_BOOT_MODULES: Final = ("virtio_pci", "virtio_blk", "virtio_net")
_INIT: Final = Path(__file__).with_name("boot.sh")
_RUNTIME: Final = "server"
"""The extra of this project with what an agent imports."""


@dataclass(frozen=True, slots=True)
class HostImages:
    """What a host machine boots from."""

    kernel: Path
    initramfs: Path
    root: Path
    data: Path

    @property
    def digest(self) -> str:
        """Their names contain the digests of what they are made of."""
        return digest_of(path.parent.name for path in (self.kernel, self.root, self.data))


async def host_images(cache: Path, images_dir: Path) -> HostImages:
    """Build what is missing. The lock of `cache` must be held."""
    version = await newest_version(this_distribution())
    init = _INIT.read_bytes()
    kernel = await built(cache, "kernel", digest_of([version, init]), lambda to: _build_kernel(to, version))
    root = await built(cache, "root", digest_of([*_PACKAGES, this_distribution().suite]), _build_root)
    guest = load_images(images_dir)
    packages = _python_packages()
    facts = [
        kernel.name, guest.kernel_digest, guest.initramfs_digest, guest.template_digest, sys.version,
        *firecracker.PROGRAMS.values(), "with bytecode",
        *(f"{package.name}=={package.version}" for package in packages),
    ]  # fmt: skip
    data = await built(
        cache, "data", digest_of(facts), lambda to: _build_data(to, images_dir, kernel / "modules", packages)
    )
    return HostImages(kernel / "vmlinux", kernel / "boot.cpio", root / "root.ext4", data / "data.ext4")


async def _build_kernel(into: Path, version: str) -> None:
    distribution = this_distribution()
    packages = [distribution.kernel_image + version]
    if distribution.kernel_modules is not None:
        packages.append(distribution.kernel_modules + version)
    downloads, unpacked = into / "debs", into / "unpacked"
    downloads.mkdir()
    for deb in await apt.download(packages, downloads):
        await run(["dpkg-deb", "-x", str(deb), str(unpacked)], timeout_s=_STEP_TIMEOUT_S)
    await unpack_vmlinux(unpacked / "boot" / f"vmlinuz-{version}", into / "vmlinux")
    tree = next(path for path in (unpacked / "usr/lib/modules", unpacked / "lib/modules") if path.is_dir())
    await run(["depmod", "-b", str(tree.parents[1]), version], timeout_s=_STEP_TIMEOUT_S)
    (into / "boot.cpio").write_bytes(_initramfs(tree / version))
    tree.rename(into / "modules")
    shutil.rmtree(downloads)
    shutil.rmtree(unpacked)


def _initramfs(modules: Path) -> bytes:
    """Busybox, the modules that find the disks, and a script."""
    needs = {
        Path(name).stem: (name, rest.split())
        for name, _, rest in (
            line.partition(":") for line in (modules / "modules.dep").read_text().splitlines()
        )
    }
    ordered: list[str] = []
    for wanted in _BOOT_MODULES:
        if wanted in needs:  # else it is built in
            name, before = needs[wanted]
            ordered += [path for path in (*reversed(before), name) if path not in ordered]
    names = [Path(path).name for path in ordered]
    return archive(
        [
            *(directory(name) for name in ("bin", "dev", "proc", "sys", "root", "modules")),
            character_device("dev/console", 5, 1),
            regular("bin/busybox", Path("/bin/busybox").read_bytes(), permissions=0o755),
            regular("init", _INIT.read_bytes(), permissions=0o755),
            regular("modules.list", "".join(f"/modules/{name}\n" for name in names).encode()),
            *(regular(f"modules/{Path(path).name}", (modules / path).read_bytes()) for path in ordered),
        ]
    )


async def _build_root(into: Path) -> None:
    """By the recipe of the template `minimal`, with other packages."""
    recipe = load_recipe("minimal", this_distribution().suite)
    recipe = replace(recipe, name="host", packages=_PACKAGES, pins={}, size_gib=8, hostname="host")
    with (into / "lock").open("wb") as lock:
        template = await build_template(
            into,
            recipe,
            this_distribution(),
            lambda text: print(f"host machine: {text}"),
            lock_fd=lock.fileno(),
        )
    template.rootfs.rename(into / "root.ext4")


async def _build_data(
    into: Path, images_dir: Path, modules: Path, packages: list[importlib.metadata.Distribution]
) -> None:
    content = into / "content"
    guest = load_images(images_dir)
    images = content / "images"
    for name in ("initramfs", "kernels", "templates"):
        (images / name).mkdir(parents=True)
    for path in (
        guest.initramfs, guest.initramfs.with_name("current.json"), guest.kernel.parent, guest.rootfs.parent,
    ):  # fmt: skip
        target = images / path.relative_to(images_dir)
        await run(["cp", "-a", "--sparse=always", str(path), str(target)], timeout_s=_STEP_TIMEOUT_S)
    await run(["cp", "-a", str(modules), str(content / "modules")], timeout_s=_STEP_TIMEOUT_S)
    shutil.copytree(firecracker.programs(), content / "firecracker")
    for package in packages:
        _copy_package(package, content / "python")
    # Compiling takes minutes there, and each run would do it again.
    compileall.compile_dir(content / "python", quiet=2)
    image = into / "data.ext4"
    with image.open("xb") as file:
        file.truncate(_DATA_SIZE_B)
    await run(["mkfs.ext4", *mkfs_arguments(content, image)], timeout_s=_STEP_TIMEOUT_S)
    shutil.rmtree(content)


def _python_packages() -> list[importlib.metadata.Distribution]:
    """What an agent and its tests may import, by the requirements of the packages themselves."""
    found: dict[str, importlib.metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    wanted = [("wrenn", ""), ("wrenn", _RUNTIME), ("pytest", "")]
    while wanted:
        name, extra = wanted.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        package = importlib.metadata.distribution(name)
        found[package.name] = package
        for line in package.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                wanted += [(requirement.name, extra) for extra in ("", *requirement.extras)]
    del found["wrenn"]
    return [found[name] for name in sorted(found)]


def _copy_package(package: importlib.metadata.Distribution, into: Path) -> None:
    for file in package.files or ():
        source = Path(str(package.locate_file(file)))
        target = into / str(file)
        # Programs lie outside; no agent calls them.
        if ".." in file.parts or not source.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
