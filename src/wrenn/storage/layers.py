"""Layers: the qcow2 overlays of root disks. One VM writes a layer; once frozen it never changes and may be shared.

A layer names no backing file: the VMM is told the order by descriptor. Rules: docs/design/snapshots.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash

from wrenn.base.ids import random_hex
from wrenn.base.units import MIB
from wrenn.linux.files import fsync_path
from wrenn.storage.damage import DamagedSnapshot

_PREFIX: Final = "layer-"
_SUFFIX: Final = ".qcow2"
_DIGEST_LIMIT_B: Final = 64 * MIB
"""Up to here a digest costs less than 20 ms; of larger layers only the size is compared."""


@dataclass(frozen=True, slots=True)
class LayerSeal:
    """What a frozen layer was: its name, size, and its XXH3-128 if it is not too large."""

    layer_id: str
    size_b: int
    digest: str


def new_layer_id() -> str:
    """A name for a new layer; short enough for a block node of QEMU (31 characters)."""
    return _PREFIX + random_hex(8)


def layer_path(root: Path, layer_id: str) -> Path:
    """File of a layer."""
    return root / f"{layer_id}{_SUFFIX}"


def layers_in(root: Path) -> list[str]:
    """Ids of all layers."""
    return sorted(path.stem for path in root.glob(f"{_PREFIX}*{_SUFFIX}"))


def seal(root: Path, layer_id: str) -> LayerSeal:
    """What the frozen layer is now. Its file can be written by nobody from here on, except who has it open."""
    path = layer_path(root, layer_id)
    path.chmod(0o400)
    return LayerSeal(layer_id, path.stat().st_size, _digest(path))


def check(root: Path, expected: LayerSeal) -> None:
    """Compare a layer with its seal.

    Raises:
        DamagedSnapshot: missing, or not what was sealed.
    """
    path = layer_path(root, expected.layer_id)
    try:
        same = path.stat().st_size == expected.size_b and _digest(path) == expected.digest
    except FileNotFoundError as error:
        raise DamagedSnapshot(f"A part of the disk, {expected.layer_id}, is missing.") from error
    if not same:
        raise DamagedSnapshot(f"A part of the disk, {expected.layer_id}, is not what was saved.")


def flush(root: Path, layer_id: str) -> None:
    """Make a frozen layer survive a power cut."""
    fsync_path(layer_path(root, layer_id))


def _digest(path: Path) -> str:
    if path.stat().st_size > _DIGEST_LIMIT_B:
        return ""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(MIB):
            digest.update(piece)
    return digest.hexdigest()
