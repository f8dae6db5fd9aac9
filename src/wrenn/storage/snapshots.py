"""Snapshots: saved states of VMs. A folder with the driver's files and `manifest.json`, which is written last.

A folder without a manifest is not a snapshot. A snapshot never changes, except for the file `kept`, which pins it. One that came from another
host has the access token that its guest expects in the file `token`; all others expect one that this host derives.
Formats: docs/design/snapshots.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import xxhash

from wrenn.base.errors import NotFound
from wrenn.base.secrets import Secret
from wrenn.linux.files import fsync_path, link_or_copy, translated, write_json
from wrenn.protocol.vm_platform import VmPlatform, devices_digest
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.layers import LayerSeal

FORMAT: Final = 1
ARCH: Final = "arch"
CPU: Final = "cpu"
SAVED: Final = "saved"
"""Keys of a manifest's metadata."""
_DISK_ONLY: Final = "disk"
"""Value of `SAVED` if the memory was not saved."""
_DISK_ONLY_FILE: Final = "disk-only"
"""File in place of memory and state, so that the folder of every snapshot has one."""
_MANIFEST: Final = "manifest.json"
_PIN_FILE: Final = "kept"
"""Empty file in the folder of a pinned snapshot: the garbage collector does not remove it."""
_GUEST_FILE: Final = "token"
_DRAFT_PREFIX: Final = ".draft-"
_BLOCK_B: Final = 512


@dataclass(frozen=True, slots=True)
class MemorySeal:
    """Sizes and digests of a VM's saved memory and device state, by which damaged files are recognised."""

    memory_size_b: int = 0
    memory_digest: str = ""
    state_size_b: int = 0
    state_digest: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of a snapshot's manifest.

    Attributes:
        sandbox_id: whose access token the guest expects.
        metadata: versions that it ran with, in `ARCH` and `CPU` what it was saved on, and `SAVED` if its memory was not saved: former
            versions read no other fields.
        base: key of the base under it all.
        base_digest: what that base held, see `BaseStore.content_digest`: one made again under the same key is another one.
        parent: snapshot whose memory image its memory lies on; empty: the base's.
        layers: frozen layers of its disk, newest first.
        memory_size_b, memory_digest, state_size_b, state_digest: as its driver sealed them.
        disk_mb: size of its disk, as its guest knows it; 0: that of the template's image.
    """

    snapshot_id: str
    sandbox_id: str
    template: str
    vcpus: int
    memory_mb: int
    vmm: str
    accelerator: str
    machine: str
    base: str
    base_digest: str
    parent: str
    layers: tuple[LayerSeal, ...]
    created_at: float
    metadata: dict[str, str]
    memory_size_b: int = 0
    memory_digest: str = ""
    state_size_b: int = 0
    state_digest: str = ""
    disk_mb: int = 0

    @property
    def platform(self) -> VmPlatform:
        """What it needs to be restored."""
        return VmPlatform(
            arch=self.metadata.get(ARCH, ""),
            vmm=self.vmm,
            accelerator=self.accelerator,
            devices=devices_digest(self.machine),
            cpu=self.metadata.get(CPU, ""),
        )

    @property
    def versions(self) -> dict[str, str]:
        """The versions that it ran with, for people."""
        return {name: value for name, value in self.metadata.items() if name not in (ARCH, CPU, SAVED)}

    @property
    def has_memory(self) -> bool:
        """Whether the memory was saved. Otherwise what is restored boots from the disk."""
        return self.metadata.get(SAVED) != _DISK_ONLY

    @property
    def layer_ids(self) -> tuple[str, ...]:
        """Ids of its layers, newest first."""
        return tuple(layer.layer_id for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot on disk."""

    manifest: Manifest
    directory: Path

    @property
    def size_b(self) -> int:
        """Bytes that the VM's saved files take on disk, without layers."""
        return allocated_b(self.directory)

    def pin(self) -> None:
        """Protect it from garbage collection until `unpin`."""
        pin(self.directory)


def pin(directory: Path) -> None:
    """Protect a snapshot, or the draft of one, from garbage collection until `unpin`."""
    (directory / _PIN_FILE).touch(mode=0o600)


def is_pinned(root: Path, snapshot_id: str) -> bool:
    """Whether the snapshot is protected from garbage collection."""
    return (root / snapshot_id / _PIN_FILE).exists()


def unpin(root: Path, snapshot_id: str) -> None:
    """Let the garbage collector remove the snapshot once nothing references it. Idempotent; an unknown id is ignored."""
    (root / snapshot_id / _PIN_FILE).unlink(missing_ok=True)


def allocated_b(directory: Path) -> int:
    """Return the bytes that a VM's saved files take on disk. Files that are missing or being removed count as 0."""
    size_b = 0
    for path in _vm_files(directory):
        with suppress(FileNotFoundError):
            size_b += path.stat().st_blocks * _BLOCK_B
    return size_b


def link_files(source: Path, destination: Path) -> None:
    """Hard-link or copy the VM's saved files from the snapshot folder `source` to `destination`. Blocking. Raises StorageFull."""
    for path in _vm_files(source):
        link_or_copy(path, destination / path.name)


def files_to_store(directory: Path) -> list[Path]:
    """Return the VM's saved files, sorted by name, without the guest's token."""
    return sorted(path for path in _vm_files(directory) if path.name != _GUEST_FILE)


def write_guest_token(draft: Path, token: Secret) -> None:
    """Store the access token that the guest of a snapshot from another host expects in its folder."""
    _write_token(draft / _GUEST_FILE, token)


def _write_token(path: Path, token: Secret) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(token.reveal())


def adopt(root: Path, snapshot_id: str, token: Secret) -> None:
    """Pin a snapshot of another host, whose guest expects this access token. Blocking. May be repeated.

    It may have come without the token, because another snapshot lies on it. Raises StorageFull.
    """
    directory = root / snapshot_id
    try:
        if not (directory / _GUEST_FILE).exists():
            part = directory / f".{_GUEST_FILE}"
            part.unlink(missing_ok=True)
            _write_token(part, token)
            part.rename(directory / _GUEST_FILE)
        fsync_path(directory / _GUEST_FILE)
        pin(directory)
        fsync_path(directory)
    except OSError as error:
        raise translated(error, doing="keep the snapshot") from error


def guest_token(directory: Path) -> Secret | None:
    """Return the access token that the guest of a snapshot from another host expects; None: the snapshot was saved on this one."""
    try:
        return Secret((directory / _GUEST_FILE).read_text())
    except FileNotFoundError:
        return None


def manifest_fields(manifest: Manifest) -> dict[str, Any]:
    """Return a manifest as JSON."""
    return {"format": FORMAT, **asdict(manifest)}


def manifest_of(fields: dict[str, Any]) -> Manifest:
    """Read what `manifest_fields` returns.

    Raises:
        DamagedSnapshot: of a format that is not known. ValueError, KeyError, TypeError, AttributeError: it is no manifest.
    """
    if fields.pop("format") != FORMAT:
        raise DamagedSnapshot("It was saved in a format that this version of wrenn does not know.")
    fields["layers"] = tuple(LayerSeal(**layer) for layer in fields["layers"])
    return Manifest(**fields)


def _vm_files(directory: Path) -> list[Path]:
    try:
        return [p for p in directory.iterdir() if p.name not in (_MANIFEST, _PIN_FILE) and p.name[0] != "."]
    except (FileNotFoundError, NotADirectoryError):
        return []


def write_disk_only(draft: Path) -> dict[str, str]:
    """Make the folder that of a snapshot without memory; returns what its manifest's metadata says of that. Raises StorageFull."""
    try:
        (draft / _DISK_ONLY_FILE).write_text("The memory of this sandbox was not saved.\n")
    except OSError as error:
        raise translated(error, doing="create the snapshot's folder") from error
    return {SAVED: _DISK_ONLY}


def draft_path(root: Path, snapshot_id: str) -> Path:
    """Return the folder in which a snapshot is prepared."""
    return root / f"{_DRAFT_PREFIX}{snapshot_id}"


def publish(draft: Path, root: Path, manifest: Manifest) -> Snapshot:
    """Atomically make the finished folder `draft` the snapshot of this manifest. It survives the death of any process.

    Raises:
        StorageFull: no room; the draft is still there.
    """
    fields = manifest_fields(manifest)
    write_json(draft / _MANIFEST, {**fields, "digest": _digest_of(fields)}, durable=False)
    final = root / manifest.snapshot_id
    try:
        draft.rename(final)
    except OSError as error:
        raise translated(error, doing="keep the snapshot") from error
    return Snapshot(manifest, final)


def flush(snapshot: Snapshot) -> None:
    """Flush the snapshot's own files, without layers, to disk. Blocking. Raises FileNotFoundError if one is missing."""
    for path in (*_vm_files(snapshot.directory), snapshot.directory / _MANIFEST, snapshot.directory):
        fsync_path(path)
    fsync_path(snapshot.directory.parent)


def find(root: Path, snapshot_id: str) -> Snapshot:
    """Return the snapshot of this id. Only its manifest is checked.

    Raises:
        NotFound: there is none. DamagedSnapshot: its manifest is not what was written.
    """
    directory = root / snapshot_id
    try:
        fields = cast("dict[str, Any]", json.loads((directory / _MANIFEST).read_text()))
        digest = fields.pop("digest")
        if _digest_of(fields) != digest:
            raise DamagedSnapshot(f"The manifest of {snapshot_id} is not what was written.")
        manifest = manifest_of(fields)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"There is no snapshot {snapshot_id} on this host.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedSnapshot(f"The manifest of {snapshot_id} cannot be read.") from error
    if manifest.snapshot_id != snapshot_id:
        raise DamagedSnapshot(f"The manifest of {snapshot_id} belongs to another snapshot.")
    return Snapshot(manifest, directory)


def snapshot_ids(root: Path) -> Iterator[str]:
    """Yield the ids of all snapshots, including damaged ones."""
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if not path.name.startswith("."):
            yield path.name


def pinned_snapshots(root: Path) -> Iterator[Snapshot]:
    """Yield all pinned snapshots whose manifests can be read."""
    for name in snapshot_ids(root):
        if is_pinned(root, name):
            with suppress(NotFound, DamagedSnapshot):
                yield find(root, name)


def drafts(root: Path) -> list[Path]:
    """Return folders of snapshots that were never finished, or are being prepared now."""
    return sorted(root.glob(f"{_DRAFT_PREFIX}*"))


def _digest_of(fields: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(fields, sort_keys=True).encode())
