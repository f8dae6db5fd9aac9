"""Measures the disk space that sandboxes use on the host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes.journal import Record
from wrenn.base.ids import SandboxId
from wrenn.storage import snapshots
from wrenn.vm import DiskChain

_BLOCK_B: Final = 512


class DiskUsage:
    """Measures the disk space of sandboxes, in bytes. Frozen layers do not change and are measured once."""

    def __init__(self, layout: Layout, disks: DiskChain) -> None:
        self._layout = layout
        self._disks = disks
        self._frozen: dict[str, int] = {}

    def measure(self, records: Sequence[Record]) -> dict[SandboxId, int]:
        """Return the disk use of each of these running sandboxes. Blocks on the disk; must not run concurrently."""
        return {record.spec.sandbox_id: self._of(record) for record in records}

    def measure_layers(self, records: Sequence[Record]) -> dict[SandboxId, int]:
        """Return what the layers take that each of these running sandboxes wrote. Blocks on the disk; must not run concurrently."""
        return {record.spec.sandbox_id: self._of_layers(record) for record in records}

    def _of_layers(self, record: Record) -> int:
        written, *frozen = record.layers
        own = [layer for layer in frozen if layer not in record.origin_layers]
        return self._disks.allocated_b(written) + sum(self._of_frozen(layer) for layer in own)

    def _of(self, record: Record) -> int:
        """Return the bytes in the layers that it wrote, its memory at its last pause, its journal and logs."""
        return (
            self._of_layers(record)
            + sum(self._of_snapshot(name) for name in (record.snapshot, record.former_snapshot) if name)
            + _allocated_in_b(self._layout.sandbox(record.spec.sandbox_id))
        )

    def forget_all_but(self, records: Sequence[Record]) -> None:
        """Forget the sizes of layers that none of these sandboxes has."""
        named = {name for r in records for name in (*r.layers, r.snapshot, r.former_snapshot)}
        self._frozen = {name: size_b for name, size_b in self._frozen.items() if name in named}

    def _of_frozen(self, layer: str) -> int:
        if layer not in self._frozen:
            self._frozen[layer] = self._disks.allocated_b(layer)
        return self._frozen[layer]

    def _of_snapshot(self, name: str) -> int:
        if name not in self._frozen:
            self._frozen[name] = snapshots.allocated_b(self._layout.snapshots / name)
        return self._frozen[name]


def _allocated_in_b(folder: Path) -> int:
    try:
        return sum(map(_allocated_b, folder.iterdir()))
    except FileNotFoundError:  # it is being removed
        return 0


def _allocated_b(path: Path) -> int:
    try:
        return path.stat().st_blocks * _BLOCK_B
    except FileNotFoundError:
        return 0
