"""Measures the disk space that sandboxes use on the host."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes.journal import Record
from wrenn.base.ids import SandboxId
from wrenn.base.units import MIB
from wrenn.storage import snapshots
from wrenn.vm import DiskChain

_BLOCK_B: Final = 512
_MEMORIES: Final = 2
"""A VMM may have its memory so often in a jail: as it was resumed, and as it was changed since."""
_MOST_FILES: Final = 10_000
_MOST_LEVELS: Final = 32
"""Of a sandbox's folder, and of folders in it. Only a VMM that a guest took over makes more, in its jail."""
_ENDLESS_B: Final = 1 << 62


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
            + _allocated_in_b(
                self._layout.sandbox(record.spec.sandbox_id),
                uncounted_b=_MEMORIES * record.spec.shape.memory_mb * MIB,
            )
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


def _allocated_in_b(folder: Path, *, uncounted_b: int) -> int:
    """Return what a sandbox's folder takes. Of what is in folders in it, which belong to its VMM, `uncounted_b` are not counted.

    A VMM with more files or deeper folders than one can have takes more than anybody may.
    """
    direct_b, below_b, files = 0, 0, 0
    todo = [(os.fspath(folder), 0)]
    while todo:
        current, level = todo.pop()
        for entry in _entries(current):
            files += 1
            if files > _MOST_FILES or level > _MOST_LEVELS:
                return _ENDLESS_B
            size_b = _allocated_b(Path(entry.path))
            if level:
                below_b += size_b
            else:
                direct_b += size_b
            if entry.is_dir(follow_symlinks=False):
                todo.append((entry.path, level + 1))
    return direct_b + max(0, below_b - uncounted_b)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except FileNotFoundError:  # it is being removed
        return


def _allocated_b(path: Path) -> int:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0
    # A memory image is shared: root owns it, and it has more than one name.
    is_shared = found.st_uid == 0 and found.st_nlink > 1
    return 0 if is_shared else found.st_blocks * _BLOCK_B
