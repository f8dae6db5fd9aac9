"""The guest's kernel: the distribution's own package, downloaded with apt and unpacked, never installed."""

from __future__ import annotations

import fnmatch
import lzma
import shutil
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
    "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_mmio",
    "virtio_blk", "failover", "net_failover", "virtio_net", "virtio_rng", "virtio_balloon",
    "inet_diag", "tcp_diag",
)  # fmt: skip
"""What the guest needs to find its devices, on PCI (QEMU) or as memory-mapped ones (Firecracker), and to end connections of a
former life (`sock_diag`), in an order in which they load."""


LOADABLE: Final = (
    "overlay", "fuse", "loop", "squashfs", "binfmt_misc",
    "veth", "bridge", "br_netfilter", "tun", "tap", "macvlan", "ipvlan", "dummy", "vxlan", "wireguard",
    "nf_tables", "nft_*", "nf_conntrack*", "nf_nat*", "nf_reject_*", "nf_defrag_*", "nfnetlink*",
    "ip_tables", "iptable_*", "ipt_*", "ip6_tables", "ip6table_*", "ip6t_*", "xt_*",
)  # fmt: skip
"""What programs in a guest may load by `modprobe`: containers, virtual networks, firewalls. Names may be patterns; what
this kernel has built in, or does not know, is left out."""

REQUIRED: Final = (
    "overlay",
    "fuse",
    "loop",
    "veth",
    "bridge",
    "tun",
    "nf_tables",
    "nf_nat",
    "ip_tables",
    "xt_conntrack",
)
"""Of `LOADABLE`: a kernel that has one of these neither as a module nor built in is refused."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A built kernel.

    Attributes:
        modules: what the guest loads at boot, in load order.
        wanted: `MODULES` and `LOADABLE` as they were when it was built.
        tree: folder with all its modules and their indexes, as `/lib/modules/<version>` has them.
    """

    version: str
    vmlinux: Path
    digest: str
    modules: tuple[Path, ...]
    wanted: tuple[str, ...] = ()
    tree: Path | None = None

    @property
    def is_current(self) -> bool:
        """Return whether it has the modules that a build would select now. An older one works, with fewer features."""
        return self.wanted == (*MODULES, *LOADABLE)


def load_kernel(kernels: Path, version: str) -> Kernel:
    """Return the current kernel after checking that its files exist.

    Raises:
        NotFound: not built.
        InvalidState: damaged.
    """
    what = f"kernel {version}"
    folder = kernels / version
    manifest = read_manifest(folder / "manifest.json", what=what)
    facts = checked_file(folder / "vmlinux", manifest.get("vmlinux"), what=what)
    order = text(manifest, "load_order", what=what).split()
    facts_by_name = _facts(manifest, "modules")
    for name in order:
        checked_file(folder / "modules" / name, facts_by_name.get(name), what=what)
    in_tree = _facts(manifest, "tree")
    for name, fact in in_tree.items():
        checked_file(folder / "tree" / name, fact, what=what)
    wanted = manifest.get("wanted")
    return Kernel(
        version,
        folder / "vmlinux",
        facts.digest,
        tuple(folder / "modules" / name for name in order),
        tuple(wanted.split()) if isinstance(wanted, str) else (),
        folder / "tree" if in_tree else None,
    )


def _facts(manifest: Manifest, name: str) -> Manifest:
    facts = manifest.get(name)
    return cast(Manifest, facts) if isinstance(facts, dict) else {}


async def newest_version(distribution: Distribution) -> str:
    """Return the version of the kernel that apt would install now.

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
    """Download and unpack a kernel to `kernels/<version>`. Requires the build lock.

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
        tree = await _indexed_tree(unpacked, version)
        order = await _copy_modules(tree, version, result / "modules")
        loadable = await _copy_tree(tree, version, result / "tree")
        manifest: Manifest = {
            "format": FORMAT,
            "version": version,
            "packages": sorted(deb.name for deb in debs),
            "vmlinux": FileFacts.of(result / "vmlinux").to_json(),
            "modules": {name: FileFacts.of(result / "modules" / name).to_json() for name in order},
            "load_order": " ".join(order),
            "tree": {name: FileFacts.of(result / "tree" / name).to_json() for name in loadable},
            "wanted": " ".join((*MODULES, *LOADABLE)),
        }
        await publish(result, kernels / version, manifest)
    return load_kernel(kernels, version)


async def _indexed_tree(root: Path, version: str) -> Path:
    tree = next(path for path in (root / "usr/lib/modules", root / "lib/modules") if path.is_dir()) / version
    await run(["depmod", "-b", str(tree.parents[2]), version], timeout_s=_UNPACK_TIMEOUT_S)
    return tree


def _needs(tree: Path) -> dict[str, list[str]]:
    """Return the dependencies of each module by path, the deepest dependency last."""
    lines = (line.split(":") for line in (tree / "modules.dep").read_text().splitlines())
    return {name: rest.split() for name, rest in lines}


def _builtin(tree: Path) -> set[str]:
    return {_module_name(path) for path in (tree / "modules.builtin").read_text().split()}


async def _copy_modules(tree: Path, version: str, into: Path) -> list[str]:
    """Copy `MODULES` and their dependencies, decompressed; return the file names in load order."""
    needs, builtin = _needs(tree), _builtin(tree)
    by_name = {_module_name(path): path for path in needs}
    ordered: list[str] = []
    for module in MODULES:
        if module in builtin:
            continue
        if module not in by_name:
            raise InvalidState(f"The kernel {version} has no module {module}.")
        for path in [*reversed(needs[by_name[module]]), by_name[module]]:
            if path not in ordered:
                ordered.append(path)
    for path in ordered:
        (into / f"{_module_name(path)}.ko").write_bytes(await _plain_module(tree / path))
    return [f"{_module_name(path)}.ko" for path in ordered]


async def _copy_tree(tree: Path, version: str, into: Path) -> list[str]:
    """Copy `LOADABLE` and `MODULES` with their dependencies, decompressed, and index them; return the files."""
    needs, builtin = _needs(tree), _builtin(tree)
    chosen: set[str] = set()
    for path, needed in needs.items():
        if any(fnmatch.fnmatchcase(_module_name(path), pattern) for pattern in (*LOADABLE, *MODULES)):
            chosen.update((path, *needed))
    known = builtin | {_module_name(path) for path in chosen}
    if missing := [name for name in REQUIRED if name not in known]:
        raise InvalidState(f"The kernel {version} has no module {' or '.join(missing)}.")
    # depmod wants the usual place of a version's modules.
    scratch = into.with_name("depmod") / "lib/modules" / version
    for path in chosen:
        plain = scratch / path.removesuffix(".xz").removesuffix(".zst")
        plain.parent.mkdir(parents=True, exist_ok=True)
        plain.write_bytes(await _plain_module(tree / path))
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        if (tree / name).is_file():
            shutil.copyfile(tree / name, scratch / name)
    await run(["depmod", "-b", str(scratch.parents[2]), version], timeout_s=_UNPACK_TIMEOUT_S)
    scratch.rename(into)
    shutil.rmtree(scratch.parents[2])
    return sorted(str(path.relative_to(into)) for path in into.rglob("*") if path.is_file())


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
