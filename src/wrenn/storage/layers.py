"""Layers of root disks: one VM writes a layer; once frozen it never changes and may be shared.

What a layer is on the disk only its driver knows (`wrenn.vm.disks`). Rules: docs/design/snapshots.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wrenn.base.ids import random_hex

LAYER_PREFIX: Final = "layer-"


@dataclass(frozen=True, slots=True)
class LayerSeal:
    """What a frozen layer was: its name, its size, and a digest of its content; empty where it is too large for one."""

    layer_id: str
    size_b: int
    digest: str


def new_layer_id() -> str:
    """A name for a new layer; short enough for a block node of QEMU (31 characters)."""
    return LAYER_PREFIX + random_hex(8)
