"""Saves memory and device state of Firecracker's VMs.

Firecracker adds the pages that were dirtied since its last save to one file in the jail, which so has all pages that differ from
the memory image that the VM maps. They are compared with the image, and stored in the same format as those of other VMMs.
"""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.base.errors import InvalidState
from wrenn.linux.threads import SAVING, run_to_end
from wrenn.storage.folders import Folders
from wrenn.storage.snapshots import Snapshot
from wrenn.vm.firecracker.image_files import ImageFiles
from wrenn.vm.firecracker.installation import dotted
from wrenn.vm.firecracker.jail_files import STATE, DirtiedPages, open_dirtied, take_file
from wrenn.vm.firecracker.machine import BOOTED_NAME, JAIL_NAME, FirecrackerMachine
from wrenn.vm.machine import Machine
from wrenn.vm.memory import ImageRef, OnPartSaved, SavedMemory
from wrenn.vm.memory_diff import DiffSize
from wrenn.vm.memory_files import memory_path, state_path
from wrenn.vm.saved_memory import DiffedMemory, seal_state, write_memory

_SHARE_OF_DISK: Final = 8
"""Composed memory images may take this part (1/8) of the disk: they are files, not memory."""


class FirecrackerMemory(DiffedMemory):
    """Saves and loads memory of Firecracker's VMs. Implements `wrenn.vm.memory.MemoryImages`."""

    def __init__(self, folders: Folders, files: ImageFiles, *, version: tuple[int, int, int]) -> None:
        super().__init__(folders, files, limit_b=shutil.disk_usage(folders.data_dir).total // _SHARE_OF_DISK)
        self._version = version

    async def save(
        self, machine: Machine, image: ImageRef, directory: Path, *, on_part_saved: OnPartSaved
    ) -> SavedMemory:
        """Have Firecracker save, then write the pages that differ from the image, then take the device state."""
        assert isinstance(machine, FirecrackerMachine), "a machine of this driver"
        await self._require_version(machine)
        parent, between = self.choose_parent(image)
        async with self.images.descriptor(ImageRef(image.base, parent)) as below:
            await machine.save_dirtied(memory_b=os.fstat(below).st_size)
            size = await run_to_end(
                partial(_write, memory_path(directory), machine, below, between), pool=SAVING
            )
        await on_part_saved("memory")
        async with machine.api() as api:
            await api.describe()  # raises if the machine has ended
        state = state_path(directory)
        take_file(machine.root / STATE, state)
        seal = seal_state(state, size)
        await on_part_saved("state")
        return SavedMemory(parent, seal, {"data_pages": size.data_pages, "zero_pages": size.zero_pages})

    async def _require_version(self, machine: FirecrackerMachine) -> None:
        """Refuse to save a machine that runs in another version than machines are restored with.

        Raises:
            InvalidState: Firecracker was replaced while it ran.
        """
        async with machine.api() as api:
            found = (await api.describe()).version
        if found != self._version:
            raise InvalidState(
                f"This sandbox runs under Firecracker {dotted(found)}, but this host now has {dotted(self._version)}, which could not "
                f"resume its memory: pause it without memory, or install Firecracker {dotted(found)} again."
            )


def _write(path: Path, machine: FirecrackerMachine, image: int, between: list[Snapshot]) -> DiffSize:
    size_b = os.fstat(image).st_size
    fd = open_dirtied(machine.root, size_b=size_b)
    try:
        # What a VM that was booted has not written is zero, whatever the image has there.
        also = image if (machine.handle.directory / JAIL_NAME / BOOTED_NAME).exists() else None
        return write_memory(path, DirtiedPages(fd, size_b, also), image, between)
    finally:
        os.close(fd)
