"""The initramfs: the guest agent as `/init`, and kernel modules.

Some of them the agent loads to find disk and network; the others stay in memory for programs to load: see
`rust/envd/src/stage1/modules.rs`.

Not compressed: under emulation unpacking costs more time than reading.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.base.errors import InvalidState, NotFound
from wrenn.base.faults import fault_point
from wrenn.base.units import MIB
from wrenn.linux.files import fsync_path, write_json
from wrenn.storage.images.cpio import Entry, archive, character_device, directory, regular
from wrenn.storage.images.kernel import Kernel
from wrenn.storage.images.manifest import FORMAT, SCRATCH_PREFIX, FileFacts, checked_file, read_manifest, text

POINTER: Final = "current.json"
"""Names the initramfs in use with the kernel that its modules belong to: renamed into place last."""

_SIZE_LIMIT_B: Final = 20 * MIB
"""Above it boot slows down; envd was then surely built with its debug symbols."""


@dataclass(frozen=True, slots=True)
class Initramfs:
    """A built initramfs and the digests of its inputs."""

    path: Path
    digest: str
    kernel_version: str
    envd_digest: str


def envd_digest(envd: Path) -> str:
    """Return the SHA-256 digest of the guest agent's binary.

    Raises:
        NotFound: there is no such file.
    """
    try:
        return hashlib.sha256(envd.read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise NotFound(
            f"The guest agent {envd.name} is not built; run: make setup", context={"path": str(envd)}
        ) from error


def load_initramfs(folder: Path) -> Initramfs:
    """Return the current initramfs.

    Raises:
        NotFound: none is built.
        InvalidState: it is damaged.
    """
    what = "initramfs"
    manifest = read_manifest(folder / POINTER, what=what)
    path = folder / text(manifest, "file", what=what)
    facts = checked_file(path, manifest.get("archive"), what=what)
    return Initramfs(
        path,
        facts.digest,
        text(manifest, "kernel_version", what=what),
        text(manifest, "envd_digest", what=what),
    )


def _tree(kernel: Kernel) -> list[Entry]:
    """Return the modules that programs may load, at the paths where `modprobe` searches."""
    if kernel.tree is None:
        return []
    top = f"lib/modules/{kernel.version}"
    entries = [directory("lib"), directory("lib/modules"), directory(top)]
    for path in kernel.tree.rglob("*"):
        name = f"{top}/{path.relative_to(kernel.tree)}"
        entries.append(directory(name) if path.is_dir() else regular(name, path.read_bytes()))
    return entries


async def build_initramfs(folder: Path, kernel: Kernel, envd: Path) -> Initramfs:
    """Build an initramfs and make it current. Older ones stay, as running VMs refer to them. Requires the build lock.

    Raises:
        InvalidState: it would be too large.
        NotFound: envd is not built.
    """
    digest = envd_digest(envd)
    in_guest = [f"/modules/{module.name}" for module in kernel.modules]
    content = archive(
        [
            directory("dev"),
            character_device("dev/console", 5, 1),
            regular("init", envd.read_bytes(), permissions=0o755),
            directory("modules"),
            *(regular(f"modules/{module.name}", module.read_bytes()) for module in kernel.modules),
            regular("modules.list", "".join(f"{path}\n" for path in in_guest).encode()),
            *_tree(kernel),
        ]
    )
    if len(content) > _SIZE_LIMIT_B:
        raise InvalidState(
            f"The initramfs would have {len(content) // MIB} MiB, more than {_SIZE_LIMIT_B // MIB}: "
            "build envd for release, with stripped symbols."
        )
    place = folder / f"{hashlib.sha256(content).hexdigest()[:16]}.cpio"
    scratch = folder / f"{SCRATCH_PREFIX}{place.name}"
    scratch.write_bytes(content)
    scratch.chmod(0o600)
    fsync_path(scratch)
    scratch.rename(place)
    await fault_point("images.initramfs.before_pointer")
    pointer = {
        "format": FORMAT,
        "file": place.name,
        "archive": FileFacts.of(place).to_json(),
        "kernel_version": kernel.version,
        "envd_digest": digest,
    }
    write_json(folder / POINTER, pointer, durable=True)
    return load_initramfs(folder)
