"""The guest's kernel: the distribution's own, fetched with the machine's apt and unpacked, never installed."""

from __future__ import annotations

import lzma
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from wrenn.base.errors import InvalidState
from wrenn.linux import apt
from wrenn.linux.command import run
from wrenn.storage.images.bzimage import unpack_vmlinux
from wrenn.storage.images.distributions import Distribution
from wrenn.storage.images.manifest import (
    FORMAT,
    SCRATCH_PREFIX,
    FileFacts,
    Manifest,
    checked_file,
    publish,
    read_manifest,
    text,
)

_UNPACK_TIMEOUT_S: Final = 120.0

MODULES: Final = (
    "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk",
    "failover", "net_failover", "virtio_net",
    "inet_diag", "tcp_diag",
)  # fmt: skip
"""What the guest needs to find its disk and its network card, and to end connections of a former life (`sock_diag`), in an
order in which they load."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A built kernel: `modules` in load order; `wanted` as `MODULES` was then."""

    version: str
    vmlinux: Path
    digest: str
    modules: tuple[Path, ...]
    wanted: tuple[str, ...] = ()

    @property
    def is_current(self) -> bool:
        """Whether it has the modules that a build would take today. An older one works, with less."""
        return self.wanted == MODULES


def load_kernel(kernels: Path, version: str) -> Kernel:
    """Read the kernel's manifest and check that its files are there.

    Raises:
        NotFound: not built.
        InvalidState: damaged.
    """
    what = f"kernel {version}"
    folder = kernels / version
    manifest = read_manifest(folder / "manifest.json", what=what)
    facts = checked_file(folder / "vmlinux", manifest.get("vmlinux"), what=what)
    order = text(manifest, "load_order", what=what).split()
    modules = manifest.get("modules")
    facts_by_name = cast(Manifest, modules) if isinstance(modules, dict) else {}
    for name in order:
        checked_file(folder / "modules" / name, facts_by_name.get(name), what=what)
    wanted = manifest.get("wanted")
    return Kernel(
        version,
        folder / "vmlinux",
        facts.digest,
        tuple(folder / "modules" / name for name in order),
        tuple(wanted.split()) if isinstance(wanted, str) else (),
    )


async def newest_version(distribution: Distribution) -> str:
    """The version of the kernel that apt would install now.

    Raises:
        Unavailable: apt does not know.
    """
    for package in await apt.dependencies(distribution.kernel):
        version = package.removeprefix(distribution.kernel_image)
        if version != package and version[0].isdigit():
            return version
    raise InvalidState(
        f"The package {distribution.kernel} depends on no {distribution.kernel_image}<version>."
    )


async def build_kernel(
    kernels: Path, version: str, distribution: Distribution, progress: Callable[[str], None]
) -> Kernel:
    """Fetch and unpack one kernel into `kernels/<version>`. Only under the build lock.

    Raises:
        Unavailable: apt cannot fetch it.
        InvalidState: a VMM could not start this kernel.
    """
    packages = [distribution.kernel_image + version]
    if distribution.kernel_modules is not None:
        packages.append(distribution.kernel_modules + version)
    with tempfile.TemporaryDirectory(
        prefix=SCRATCH_PREFIX, dir=kernels, ignore_cleanup_errors=True
    ) as scratch:
        downloads, unpacked, result = (Path(scratch) / name for name in ("debs", "root", "result"))
        for folder in (downloads, unpacked, result, result / "modules"):
            folder.mkdir()
        progress(f"downloading {' and '.join(packages)}")
        debs = await apt.download(packages, downloads)
        progress("unpacking the kernel")
        for deb in debs:
            await run(["dpkg-deb", "-x", str(deb), str(unpacked)], timeout_s=_UNPACK_TIMEOUT_S)
        await unpack_vmlinux(unpacked / "boot" / f"vmlinuz-{version}", result / "vmlinux")
        order = await _copy_modules(unpacked, version, result / "modules")
        manifest: Manifest = {
            "format": FORMAT,
            "version": version,
            "packages": sorted(deb.name for deb in debs),
            "vmlinux": FileFacts.of(result / "vmlinux").to_json(),
            "modules": {name: FileFacts.of(result / "modules" / name).to_json() for name in order},
            "load_order": " ".join(order),
            "wanted": " ".join(MODULES),
        }
        await publish(result, kernels / version, manifest)
    return load_kernel(kernels, version)


async def _copy_modules(root: Path, version: str, into: Path) -> list[str]:
    """Copy `MODULES` with all that they depend on, unpacked; returns the file names in load order."""
    tree = next(path for path in (root / "usr/lib/modules", root / "lib/modules") if path.is_dir()) / version
    await run(["depmod", "-b", str(tree.parents[2]), version], timeout_s=_UNPACK_TIMEOUT_S)
    lines = (line.split(":") for line in (tree / "modules.dep").read_text().splitlines())
    needs = {name: rest.split() for name, rest in lines}
    by_name = {_module_name(path): path for path in needs}
    builtin = {_module_name(path) for path in (tree / "modules.builtin").read_text().split()}
    ordered: list[str] = []
    for module in MODULES:
        if module in builtin:
            continue
        if module not in by_name:
            raise InvalidState(f"The kernel {version} has no module {module}.")
        # modules.dep lists what a module needs with the deepest need last.
        for path in [*reversed(needs[by_name[module]]), by_name[module]]:
            if path not in ordered:
                ordered.append(path)
    for path in ordered:
        (into / f"{_module_name(path)}.ko").write_bytes(await _plain_module(tree / path))
    return [f"{_module_name(path)}.ko" for path in ordered]


def _module_name(path: str) -> str:
    return Path(path).name.split(".")[0].replace("-", "_")


async def _plain_module(path: Path) -> bytes:
    match path.suffix:
        case ".xz":
            return lzma.decompress(path.read_bytes())
        case ".zst":
            return await run(["zstd", "-dcq", str(path)], timeout_s=_UNPACK_TIMEOUT_S)
        case _:
            return path.read_bytes()
