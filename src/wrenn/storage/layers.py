"""Layers of root disks. One VM writes a layer; a frozen layer never changes and may be shared.

The format of a layer is its driver's (`wrenn.vm.disks`). Rules: docs/design/snapshots.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.base.ids import random_hex

LAYER_PREFIX: Final = "layer-"


@dataclass(frozen=True, slots=True)
class LayerSeal:
    """Id, size and digest of a frozen layer, by which a damaged layer is recognised. The digest of a large layer is empty."""

    layer_id: str
    size_b: int
    digest: str


def layer_files(root: Path) -> dict[str, Path]:
    """Return the files of all layers in a folder by id, whatever driver wrote them: `<id>.<format>`."""
    return {path.stem: path for path in sorted(root.glob(f"{LAYER_PREFIX}*.*"))}


def new_layer_id() -> str:
    """Return a new layer id; short enough for a QEMU block node name (31 characters)."""
    return LAYER_PREFIX + random_hex(8)
