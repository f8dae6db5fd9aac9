"""Root disks of the simulated driver: each layer is a folder with all files of a guest, not a difference."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from wrenn.base.units import GIB
from wrenn.linux.files import remove_tree
from wrenn.linux.threads import run_to_end
from wrenn.linux.trees import allocated_b, copy_tree, digest_tree, unpack_tree
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.layers import LAYER_PREFIX, LayerSeal
from wrenn.vm.disks import DiskRef
from wrenn.vm.simulated.bases import FolderBases, export_tree

_IMAGE_B: Final = 5 * GIB
"""Size that disks are said to have, as the image of a real template. Nothing keeps them to it."""


class FolderDisks:
    """The layers of a host, one folder each. Implements `wrenn.vm.disks.DiskChain`."""

    def __init__(self, root: Path, bases: FolderBases) -> None:
        self._root = root
        self._bases = bases

    def path(self, layer_id: str) -> Path:
        """Return the path of a layer's folder."""
        return self._root / layer_id

    def list_ids(self) -> list[str]:
        """Ids of all layers."""
        return sorted(path.name for path in self._root.glob(f"{LAYER_PREFIX}*"))

    async def create(self, layer_id: str, below: DiskRef, *, size_b: int, copy_of: str = "") -> None:
        """Create a layer as a copy of the one below it."""
        del size_b
        if copy_of:
            source = self.path(copy_of)
        elif below.layers:
            source = self.path(below.layers[0])
        else:
            source = self._bases.root_of(below.base)
        await copy_tree(source, self.path(layer_id))

    def seal(self, layer_id: str) -> LayerSeal:
        """Return the seal of a frozen layer."""
        return LayerSeal(layer_id, *digest_tree(self.path(layer_id)))

    def check(self, expected: LayerSeal) -> None:
        """Compare a layer with its seal."""
        try:
            found = self.seal(expected.layer_id)
        except FileNotFoundError as error:
            raise DamagedSnapshot(f"A part of the disk, {expected.layer_id}, is missing.") from error
        if found != expected:
            raise DamagedSnapshot(f"A part of the disk, {expected.layer_id}, is not what was saved.")

    def flush(self, layer_ids: Iterable[str]) -> None:
        """Check that the layers exist; nothing is flushed, as tests have no power cuts."""
        for layer_id in layer_ids:
            self.path(layer_id).stat()

    def allocated_b(self, layer_id: str) -> int:
        """Bytes that a layer takes on the host's disk."""
        return allocated_b(self.path(layer_id))

    def waits_for_space(self, layer_id: str) -> bool:
        """Writes fail when the host's disk is full: they do not wait."""
        del layer_id
        return False

    def size_b(self, layer_id: str) -> int:
        """Return the size that all disks of this driver have."""
        self.path(layer_id).stat()
        return _IMAGE_B

    def image_size_b(self, base: str) -> int:
        """Return the size that all disks of this driver have."""
        del base
        return _IMAGE_B

    async def export(self, layer_id: str, scratch: Path) -> Path:
        """Pack the layer's folder into a file."""
        if not self.path(layer_id).is_dir():
            raise DamagedSnapshot(f"A part of the disk, {layer_id}, is missing.")
        return await export_tree(self.path(layer_id), scratch / f"{layer_id}.tar")

    async def restore(self, layer_id: str, file: Path) -> None:
        """Unpack the file into the layer's folder."""
        draft = file.with_name(f"{file.name}.tree")
        await unpack_tree(file, draft)
        draft.rename(self.path(layer_id))
        file.unlink()

    async def remove(self, layer_id: str) -> None:
        """Remove a layer."""
        await run_to_end(lambda: remove_tree(self.path(layer_id)))

    def move_out(self, layer_id: str, folder: Path) -> None:
        """Move a layer into `folder`."""
        self.path(layer_id).rename(folder / layer_id)
