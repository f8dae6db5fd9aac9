"""Saves memory and device state of QEMU VMs."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.base.units import PAGE_B
from wrenn.linux.files import translated
from wrenn.linux.threads import SAVING, run_to_end
from wrenn.storage.folders import Folders
from wrenn.vm.machine import Machine
from wrenn.vm.memory import ImageRef, OnPartSaved, SavedMemory
from wrenn.vm.memory_files import memory_path, state_path
from wrenn.vm.qemu.machine import QemuMachine
from wrenn.vm.qemu.sealed_images import SealedImages
from wrenn.vm.saved_memory import DiffedMemory, seal_state, write_memory

_SHARE_OF_MEMORY: Final = 4
"""Loaded images may take this part (1/4) of the machine's memory: a snapshot's image may be as large as its guest."""


class QemuMemory(DiffedMemory):
    """Saves and loads memory of QEMU VMs. Implements `wrenn.vm.memory.MemoryImages`."""

    def __init__(self, folders: Folders) -> None:
        limit_b = os.sysconf("SC_PHYS_PAGES") * PAGE_B // _SHARE_OF_MEMORY
        super().__init__(folders, SealedImages(folders), limit_b=limit_b)

    async def save(
        self, machine: Machine, image: ImageRef, directory: Path, *, on_part_saved: OnPartSaved
    ) -> SavedMemory:
        """Write the pages that differ from the image, then the device state."""
        assert isinstance(machine, QemuMachine), "a machine of this driver"
        parent, between = self.choose_parent(image)
        async with self.images.descriptor(ImageRef(image.base, parent)) as below_fd:
            # A cancelled pause must not close the image while a thread reads it.
            size = await run_to_end(
                partial(write_memory, memory_path(directory), machine.memory(), below_fd, between),
                pool=SAVING,
            )
        await on_part_saved("memory")
        state = state_path(directory)
        try:
            await machine.save_state(state)
        except OSError as error:
            raise translated(error, doing="save the sandbox's devices") from error
        seal = seal_state(state, size)
        await on_part_saved("state")
        return SavedMemory(parent, seal, {"data_pages": size.data_pages, "zero_pages": size.zero_pages})
