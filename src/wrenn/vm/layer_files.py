"""Layers of root disks that are one file each in a folder: what does not depend on the format of the files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from wrenn.linux.files import fsync_path, remove_file
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.layers import LAYER_PREFIX

_BLOCK_B: Final = 512


class LayerFiles:
    """The files of the layers of a host: a part of `wrenn.vm.disks.DiskChain`, for the classes that know a format."""

    def __init__(self, root: Path, *, suffix: str) -> None:
        self._root = root
        self._suffix = suffix

    def path(self, layer_id: str) -> Path:
        """Return the path of a layer's file."""
        return self._root / f"{layer_id}{self._suffix}"

    def list_ids(self) -> list[str]:
        """Ids of all layers."""
        return sorted(path.stem for path in self._root.glob(f"{LAYER_PREFIX}*{self._suffix}"))

    def flush(self, layer_ids: Iterable[str]) -> None:
        """Flush frozen layers to disk."""
        for layer_id in layer_ids:
            fsync_path(self.path(layer_id))
        fsync_path(self._root)

    def allocated_b(self, layer_id: str) -> int:
        """Bytes that a layer takes on the host's disk."""
        try:
            return self.path(layer_id).stat().st_blocks * _BLOCK_B
        except FileNotFoundError:
            return 0

    def waits_for_space(self, layer_id: str) -> bool:
        """Writes fail when the host's disk is full: they do not wait."""
        del layer_id
        return False

    async def export(self, layer_id: str, scratch: Path) -> Path:
        """Return the layer's own file."""
        del scratch
        path = self.path(layer_id)
        if not path.exists():
            raise missing_layer(layer_id)
        return path

    async def remove(self, layer_id: str) -> None:
        """Remove a layer."""
        await remove_file(self.path(layer_id))

    def move_out(self, layer_id: str, folder: Path) -> None:
        """Move a layer into `folder`."""
        self.path(layer_id).rename(folder / layer_id)


def missing_layer(layer_id: str) -> DamagedSnapshot:
    """Return the error for a layer that has no file."""
    return DamagedSnapshot(f"A part of the disk, {layer_id}, is missing.")
