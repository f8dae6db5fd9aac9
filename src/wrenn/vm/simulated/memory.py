"""Memory of the simulated driver: none is saved. A small file replaces the device state, so that tests can damage it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import xxhash

from wrenn.storage.errors import DamagedBase, DamagedSnapshot
from wrenn.storage.snapshots import MemorySeal, Snapshot
from wrenn.vm.machine import Machine
from wrenn.vm.memory import ImageRef, OnPartSaved, SavedMemory
from wrenn.vm.simulated.bases import FolderBases
from wrenn.vm.simulated.machine import SimulatedMachine

_STATE: Final = "state"


class NoMemory:
    """Memory images without memory. Implements `wrenn.vm.memory.MemoryImages`."""

    def __init__(self, bases: FolderBases, *, state_b: int = 0) -> None:
        self._bases = bases
        self._state_b = state_b

    async def load(self, image: ImageRef) -> None:
        """Check that the base exists."""
        if not self._bases.find(image.base):
            raise DamagedBase(f"There is no base {image.base}.")

    async def save(
        self, machine: Machine, image: ImageRef, directory: Path, *, on_part_saved: OnPartSaved
    ) -> SavedMemory:
        """Write the file that replaces the device state."""
        del image  # memory that is not saved has no parent image
        assert isinstance(machine, SimulatedMachine), "a machine of this driver"
        machine.check_alive()
        await on_part_saved("memory")
        machine.check_alive()
        state = json.dumps({"layer": await machine.written_layer()}).encode().ljust(self._state_b)
        (directory / _STATE).write_bytes(state)
        await on_part_saved("state")
        seal = MemorySeal(state_size_b=len(state), state_digest=xxhash.xxh3_128_hexdigest(state))
        return SavedMemory("", seal)

    def check(self, snapshot: Snapshot) -> None:
        """Compare that file with the manifest."""
        name = snapshot.manifest.snapshot_id
        try:
            state = (snapshot.directory / _STATE).read_bytes()
        except FileNotFoundError as error:
            raise DamagedSnapshot(f"A file of {name} is missing.") from error
        if xxhash.xxh3_128_hexdigest(state) != snapshot.manifest.state_digest:
            raise DamagedSnapshot(f"The device state of {name} is not what was saved.")

    def verify_memory(self, snapshot: Snapshot) -> None:
        """Do the same as `check`: there is no memory."""
        self.check(snapshot)

    def forget(self, image: ImageRef) -> None:
        """Do nothing: no image is loaded."""

    async def close(self) -> None:
        """Do nothing: no image is loaded."""
