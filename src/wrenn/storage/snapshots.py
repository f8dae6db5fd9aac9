"""Snapshots: what a VM was at one moment. A folder with `memory` (diff), `state`, and `manifest.json`, which comes last.

No manifest, no snapshot. It is never changed after that, but for the file `kept`. Formats: docs/design/snapshots.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import xxhash

from wrenn.base.errors import NotFound
from wrenn.base.units import MIB
from wrenn.linux.files import fsync_path, translated, write_json
from wrenn.storage import layers
from wrenn.storage.damage import DamagedSnapshot
from wrenn.storage.layers import LayerSeal
from wrenn.storage.memory_diff import check_diff

FORMAT: Final = 1
_MANIFEST: Final = "manifest.json"
_DRAFT_PREFIX: Final = ".draft-"
_STATE_LIMIT_B: Final = 8 * MIB
"""Device state is some 30 KB; a VMM that a guest has taken over might write more."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot is made of and bound to.

    Attributes:
        sandbox_id: whose access token the guest expects.
        base: key of the base under it all.
        base_digest: what that base held, see `bases.content_digest`: one made again under the same key is another one.
        parent: snapshot whose memory image its memory diff lies on; empty: the base's.
        layers: frozen layers of its disk, newest first.
        memory_digest: of the diff's tables, see `storage.memory_diff`.
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
    def layer_ids(self) -> tuple[str, ...]:
        """Names of its layers, newest first."""
        return tuple(layer.layer_id for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot on the disk."""

    manifest: Manifest
    directory: Path

    @property
    def memory(self) -> Path:
        """The memory diff."""
        return self.directory / "memory"

    @property
    def state(self) -> Path:
        """The device state."""
        return self.directory / "state"

    @property
    def size_b(self) -> int:
        """Bytes that its own files take on the disk, without layers; a missing one takes none."""
        size_b = 0
        for path in (self.memory, self.state):
            with suppress(FileNotFoundError):
                size_b += path.stat().st_blocks * 512
        return size_b

    def keep(self) -> None:
        """Let it stay until `release`."""
        (self.directory / "kept").touch(mode=0o600)


def release(root: Path, snapshot_id: str) -> None:
    """Let a kept snapshot go when nothing needs it. Twice is the same as once; an unknown one is fine."""
    (root / snapshot_id / "kept").unlink(missing_ok=True)


def draft_path(root: Path, snapshot_id: str) -> Path:
    """Where a snapshot is put together."""
    return root / f"{_DRAFT_PREFIX}{snapshot_id}"


def publish(draft: Path, root: Path, manifest: Manifest) -> Snapshot:
    """Make the finished folder `draft` the snapshot of this manifest, at once. It survives any process's death.

    Raises:
        StorageFull: no room; the draft is still there. DamagedSnapshot: the VMM wrote what cannot be its state.
    """
    made = Snapshot(manifest, draft)
    size_b = made.state.stat().st_size
    if not 0 < size_b <= _STATE_LIMIT_B:
        raise DamagedSnapshot(f"The virtual machine saved a state of {size_b} bytes.")
    made.state.chmod(0o400)
    manifest = replace(manifest, state_size_b=size_b, state_digest=_digest(made.state))
    fields = {"format": FORMAT, **asdict(manifest)}
    write_json(draft / _MANIFEST, {**fields, "digest": _seal(fields)}, durable=False)
    final = root / manifest.snapshot_id
    try:
        draft.rename(final)
    except OSError as error:
        raise translated(error, doing="keep the snapshot") from error
    return Snapshot(manifest, final)


def flush(snapshot: Snapshot, layers_root: Path) -> None:
    """Make it survive a power cut too. Blocking. Files that are gone by now are fine."""
    for path in (snapshot.memory, snapshot.state, snapshot.directory / _MANIFEST, snapshot.directory):
        fsync_path(path)
    for layer in snapshot.manifest.layers:
        layers.flush(layers_root, layer.layer_id)
    fsync_path(layers_root)
    fsync_path(snapshot.directory.parent)


def find(root: Path, snapshot_id: str) -> Snapshot:
    """The snapshot of this id. Only its manifest is looked at.

    Raises:
        NotFound: there is none. DamagedSnapshot: its manifest is not what was written.
    """
    directory = root / snapshot_id
    try:
        fields = cast("dict[str, Any]", json.loads((directory / _MANIFEST).read_text()))
        seal = fields.pop("digest")
        if _seal(fields) != seal:
            raise DamagedSnapshot(f"The manifest of {snapshot_id} is not what was written.")
        if fields.pop("format") != FORMAT:
            raise DamagedSnapshot(
                f"{snapshot_id} was saved in a format that this version of wrenn does not know."
            )
        fields["layers"] = tuple(LayerSeal(**layer) for layer in fields["layers"])
        manifest = Manifest(**fields)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"There is no snapshot {snapshot_id} on this host.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedSnapshot(f"The manifest of {snapshot_id} cannot be read.") from error
    if manifest.snapshot_id != snapshot_id:
        raise DamagedSnapshot(f"The manifest of {snapshot_id} belongs to another snapshot.")
    return Snapshot(manifest, directory)


def check(snapshot: Snapshot, layers_root: Path) -> None:
    """Look at all its files; the pages of its memory are looked at when they are laid over.

    Raises:
        DamagedSnapshot: it is not what was saved.
    """
    manifest = snapshot.manifest
    name = manifest.snapshot_id
    try:
        if snapshot.memory.stat().st_size != manifest.memory_size_b:
            raise DamagedSnapshot(f"The memory of {name} has another size than when it was saved.")
        if _digest(snapshot.state) != manifest.state_digest:
            raise DamagedSnapshot(f"The device state of {name} is not what was saved.")
    except FileNotFoundError as error:
        raise DamagedSnapshot(f"A file of {name} is missing.") from error
    check_diff(snapshot.memory, manifest.memory_digest)
    for layer in manifest.layers:
        layers.check(layers_root, layer)


def snapshots_in(root: Path) -> Iterator[str]:
    """Ids of all snapshots, damaged ones too; none while there is no such folder."""
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if not path.name.startswith("."):
            yield path.name


def kept_in(root: Path) -> Iterator[Snapshot]:
    """All snapshots that are kept and whose manifests can be read."""
    for name in snapshots_in(root):
        if (root / name / "kept").exists():
            with suppress(NotFound, DamagedSnapshot):
                yield find(root, name)


def drafts_in(root: Path) -> list[Path]:
    """Folders of snapshots that were never finished, or are being made now."""
    return sorted(root.glob(f"{_DRAFT_PREFIX}*"))


def _seal(fields: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(fields, sort_keys=True).encode())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return xxhash.xxh3_128_hexdigest(file.read(_STATE_LIMIT_B + 1))
