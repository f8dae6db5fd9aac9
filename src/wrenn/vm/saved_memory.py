"""Saved memory as diffs over images: what is the same for every VMM. docs/design/snapshots.md: which pages, over which image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import numpy as np
import xxhash

from wrenn.base.units import MIB
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.folders import Folders
from wrenn.storage.snapshots import MemorySeal, Snapshot
from wrenn.vm.memory import ImageRef
from wrenn.vm.memory_diff import (
    DiffSize,
    MemoryFile,
    MemorySource,
    apply_diff,
    changed_pages,
    check_diff,
    write_diff,
)
from wrenn.vm.memory_files import memory_path, state_path
from wrenn.vm.memory_images import ImageLoader, LoadedImages

_IMAGE_DEPTH: Final = 4
"""Snapshots that a memory image may consist of; each is read when it is loaded. Deeper ones lie on the base again."""
_STATE_LIMIT_B: Final = 8 * MIB
"""Device state is some 30 KB; a VMM that a guest has taken over might write more."""


class DiffedMemory:
    """Loads and checks saved memory; a driver adds `save`. Implements the rest of `wrenn.vm.memory.MemoryImages`."""

    def __init__(self, folders: Folders, loader: ImageLoader, *, limit_b: int) -> None:
        """`limit_b`: what loaded images may take together."""
        self._folders = folders
        self.images = LoadedImages(folders, loader, limit_b=limit_b)

    async def load(self, image: ImageRef) -> None:
        """Load the image."""
        async with self.images.descriptor(image):
            pass

    def choose_parent(self, image: ImageRef) -> tuple[str, list[Snapshot]]:
        """Return over which snapshot's image memory on `image` is saved, and the snapshots between the two."""
        lineage = self._lineage(image.snapshot)
        if len(lineage) < _IMAGE_DEPTH:
            return image.snapshot, []
        return "", lineage

    def _lineage(self, snapshot_id: str) -> list[Snapshot]:
        """Return the snapshots that an image consists of, topmost first."""
        lineage: list[Snapshot] = []
        while snapshot_id:
            lineage.append(snapshots.find(self._folders.snapshots, snapshot_id))
            snapshot_id = lineage[-1].manifest.parent
        return lineage

    def check(self, snapshot: Snapshot) -> None:
        """Check all files of the snapshot; pages of memory are verified when the diff is applied."""
        manifest, name = snapshot.manifest, snapshot.manifest.snapshot_id
        memory = memory_path(snapshot.directory)
        try:
            if memory.stat().st_size != manifest.memory_size_b:
                raise DamagedSnapshot(f"The memory of {name} has another size than when it was saved.")
            if _digest(state_path(snapshot.directory)) != manifest.state_digest:
                raise DamagedSnapshot(f"The device state of {name} is not what was saved.")
        except FileNotFoundError as error:
            raise DamagedSnapshot(f"A file of {name} is missing.") from error
        check_diff(memory, manifest.memory_digest)

    def verify_memory(self, snapshot: Snapshot) -> None:
        """Verify the digest of each page."""
        size_b = snapshot.manifest.memory_mb * MIB
        fd = os.memfd_create("wrenn-check", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size_b)
            apply_diff(
                memory_path(snapshot.directory), snapshot.manifest.memory_digest, MemoryFile(fd, size_b)
            )
        finally:
            os.close(fd)

    def forget(self, image: ImageRef) -> None:
        """Unload an image."""
        self.images.forget(image)

    async def close(self) -> None:
        """Cancel loads that are under way and unload all images."""
        await self.images.close()


def write_memory(path: Path, memory: MemorySource, image: int, between: list[Snapshot]) -> DiffSize:
    """Write the diff. Pages that the diffs in `between` contain are compared too, as they are part of `image`."""
    pages = [changed_pages(memory_path(s.directory), s.manifest.memory_digest) for s in between]
    return write_diff(path, memory, image, np.concatenate(pages) if pages else None)


def seal_state(state: Path, memory: DiffSize) -> MemorySeal:
    """Return the seal of saved memory and of the device state that was saved with it."""
    size_b = state.stat().st_size
    if not 0 < size_b <= _STATE_LIMIT_B:
        raise DamagedSnapshot(f"The virtual machine saved a state of {size_b} bytes.")
    state.chmod(0o400)
    return MemorySeal(memory.size_b, memory.digest, size_b, _digest(state))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return xxhash.xxh3_128_hexdigest(file.read(_STATE_LIMIT_B + 1))
