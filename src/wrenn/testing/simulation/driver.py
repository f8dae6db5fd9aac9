"""The VM driver of a simulated world, and its disks, memory images and bases.

Unlike `wrenn.vm.simulated`, memory survives: it is saved as a small file. Disks are in the world, not on the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Final

import xxhash

from wrenn.base.errors import AgentFailure
from wrenn.base.undo import Undo
from wrenn.base.units import GIB, KIB, MIB
from wrenn.linux.process import ProcessRef, kill_and_wait
from wrenn.linux.process_usage import ProcessUsage
from wrenn.linux.spawn import Confinement
from wrenn.storage.errors import DamagedBase, DamagedSnapshot
from wrenn.storage.folders import Folders
from wrenn.storage.layers import LayerSeal
from wrenn.storage.snapshots import MemorySeal, Snapshot
from wrenn.testing.simulation.guest import GuestMemory
from wrenn.testing.simulation.runs import require_alive
from wrenn.testing.simulation.tree import Tree
from wrenn.testing.simulation.world import Layer, VirtualMachine, World
from wrenn.vm.disks import DiskRef
from wrenn.vm.driver import BootRequest, Capabilities, FlattenRequest, RestoreRequest, Shape
from wrenn.vm.machine import Machine, MachineHandle
from wrenn.vm.memory import ImageRef, OnPartSaved, SavedMemory
from wrenn.vm.simulated import FolderBaseMaker, FolderBases

_IMAGE_B: Final = 5 * GIB
_KILL_TIMEOUT_S: Final = 10.0
_STATE: Final = "state"
_RESIDENT_B: Final = 64 * MIB
_LOG_LIMIT_B: Final = MIB
_LOG_TAIL_B: Final = 2000
_CONSOLE_LIMIT_B: Final = 64 * KIB
_NO_BOOT: Final = "a base of the simulated driver is never booted"


class MemoryDisks:
    """Layers in memory. Implements `wrenn.vm.disks.DiskChain`."""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def _layers(self) -> dict[str, Layer]:
        require_alive()
        return self._world.layers

    def _layer(self, layer_id: str) -> Layer:
        if (layer := self._layers.get(layer_id)) is None:
            raise FileNotFoundError(layer_id)
        return layer

    def list_ids(self) -> list[str]:
        """Ids of all layers."""
        return sorted(self._layers)

    async def create(self, layer_id: str, below: DiskRef, *, size_b: int, copy_of: str = "") -> None:
        """Create a layer as a copy of the one below it."""
        await self._world.act(0.0005, 0.02)
        if copy_of:
            source = self._layer(copy_of)
            if source.size_b > size_b:
                raise DamagedSnapshot(f"{copy_of} is larger than the disk.")
            tree = source.tree
        else:
            tree = self._layer(below.layers[0]).tree if below.layers else Tree.of_base()
        self._layers[layer_id] = Layer(tree.copy(), size_b)
        await self._world.answer()

    def seal(self, layer_id: str) -> LayerSeal:
        """Return the seal of a frozen layer."""
        layer = self._layer(layer_id)
        return LayerSeal(layer_id, layer.tree.size_b, layer.tree.digest())

    def check(self, expected: LayerSeal) -> None:
        """Compare a layer with its seal."""
        try:
            found = self.seal(expected.layer_id)
        except FileNotFoundError as error:
            raise DamagedSnapshot(f"A part of the disk, {expected.layer_id}, is missing.") from error
        if found != expected:
            raise DamagedSnapshot(f"A part of the disk, {expected.layer_id}, is not what was saved.")

    def flush(self, layer_ids: Iterable[str]) -> None:
        """Check that the layers exist."""
        for layer_id in layer_ids:
            self._layer(layer_id)

    def allocated_b(self, layer_id: str) -> int:
        """Bytes in the files of a layer."""
        layer = self._layers.get(layer_id)
        return layer.tree.size_b if layer is not None else 0

    def waits_for_space(self, layer_id: str) -> bool:
        """Writes fail when the host's disk is full: they do not wait."""
        del layer_id
        return False

    def size_b(self, layer_id: str) -> int:
        """Return the disk size that a layer was created for."""
        return self._layer(layer_id).size_b

    def image_size_b(self, base: str) -> int:
        """Return the default size of disks."""
        del base
        return _IMAGE_B

    async def export(self, layer_id: str, scratch: Path) -> Path:
        """Write the layer to a file."""
        await self._world.act(0.001, 0.02)
        if (layer := self._layers.get(layer_id)) is None:
            raise DamagedSnapshot(f"A part of the disk, {layer_id}, is missing.")
        file = scratch / layer_id
        file.write_text(json.dumps({"size_b": layer.size_b, "tree": layer.tree.to_json()}))
        await self._world.answer()
        return file

    async def restore(self, layer_id: str, file: Path) -> None:
        """Read the layer from a file."""
        await self._world.act(0.001, 0.02)
        fields = json.loads(file.read_text())
        self._layers[layer_id] = Layer(Tree.from_json(fields["tree"]), fields["size_b"])
        file.unlink()
        await self._world.answer()

    async def remove(self, layer_id: str) -> None:
        """Remove a layer."""
        await self._world.act(0.0002, 0.01)
        self._layers.pop(layer_id, None)
        await self._world.answer()

    def move_out(self, layer_id: str, folder: Path) -> None:
        """Remove a layer; a file with its name in `folder` stands for it."""
        self._layer(layer_id)
        del self._layers[layer_id]
        (folder / layer_id).touch()


class MemoryFiles:
    """Saved memory as one small file of a snapshot. Implements `wrenn.vm.memory.MemoryImages`."""

    def __init__(self, world: World, bases: FolderBases, snapshots: Path) -> None:
        self._world = world
        self._bases = bases
        self._snapshots = snapshots

    async def load(self, image: ImageRef) -> None:
        """Check that the image exists."""
        await self._world.act(0.0005, 0.01)
        if not self._bases.find(image.base):
            raise DamagedBase(f"There is no base {image.base}.")
        if image.snapshot:
            self.read(image.snapshot)

    def read(self, snapshot: str) -> GuestMemory:
        """Return what a snapshot has saved.

        Raises:
            DamagedSnapshot: it is missing, or not what was saved.
        """
        try:
            return GuestMemory(**json.loads((self._snapshots / snapshot / _STATE).read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise DamagedSnapshot(f"The memory of {snapshot} is not what was saved.") from error

    async def save(
        self, machine: Machine, image: ImageRef, directory: Path, *, on_part_saved: OnPartSaved
    ) -> SavedMemory:
        """Write the guest's memory."""
        del image  # all of the memory is saved, so it has no parent image
        assert isinstance(machine, InProcessMachine), "a machine of this driver"
        await self._world.act(0.005, 0.2)
        state = json.dumps(asdict(machine.running().guest.save())).encode()
        await on_part_saved("memory")
        machine.running()
        require_alive()
        (directory / _STATE).write_bytes(state)
        await on_part_saved("state")
        return SavedMemory(
            "", MemorySeal(state_size_b=len(state), state_digest=xxhash.xxh3_128_hexdigest(state))
        )

    def check(self, snapshot: Snapshot) -> None:
        """Compare the file with the manifest."""
        name = snapshot.manifest.snapshot_id
        try:
            state = (snapshot.directory / _STATE).read_bytes()
        except FileNotFoundError as error:
            raise DamagedSnapshot(f"A file of {name} is missing.") from error
        if xxhash.xxh3_128_hexdigest(state) != snapshot.manifest.state_digest:
            raise DamagedSnapshot(f"The memory of {name} is not what was saved.")

    def verify_memory(self, snapshot: Snapshot) -> None:
        """Do the same as `check`, which reads all of it."""
        self.check(snapshot)

    def forget(self, image: ImageRef) -> None:
        """Do nothing: no image is loaded."""

    async def close(self) -> None:
        """Do nothing: no image is loaded."""


class InProcessMachine:
    """An agent's connection to one machine of the world. Implements `wrenn.vm.machine.Machine`."""

    def __init__(self, world: World, handle: MachineHandle, machine: VirtualMachine) -> None:
        self._world = world
        self._handle = handle
        self._machine = machine

    @property
    def handle(self) -> MachineHandle:
        """What identifies this machine across restarts of the agent."""
        return self._handle

    def running(self) -> VirtualMachine:
        """Return the machine. Raises AgentFailure if it has ended."""
        if self._machine.ended.is_set():
            raise AgentFailure("The virtual machine has ended.", context={"log": self.log_tail()})
        return self._machine

    async def note_guest_ready(self) -> None:
        """Do nothing: starts do not depend on earlier ones."""

    async def suspend(self, *, flush: bool = True) -> None:
        """Have the virtual CPUs stand still."""
        del flush
        self.running()
        await self._world.act(0.0005, 0.02)
        self.running().is_suspended = True
        self._machine.guest.run(running=False)
        await self._world.answer()
        self.running()

    async def unsuspend(self) -> None:
        """Let the virtual CPUs continue."""
        self.running()
        await self._world.act(0.0005, 0.02)
        self.running().is_suspended = False
        self._machine.guest.run(running=self._machine.guest.faults.boots)
        await self._world.answer()
        self.running()

    async def switch_layer(self, layer_id: str) -> None:
        """Write to another layer from now on; the former one keeps a copy of what it is now."""
        self.running()
        await self._world.act(0.0005, 0.02)
        machine, layers = self.running(), self._world.layers
        if layer_id not in layers:
            raise AgentFailure("The virtual machine has no such disk.", context={"layer": layer_id})
        former = layers[machine.layer_id]
        layers[layer_id].tree, former.tree = former.tree, former.tree.copy()
        machine.layer_id = layer_id
        await self._world.answer()
        self.running()

    async def written_layer(self) -> str:
        """Return the layer that the machine writes to."""
        self.running()
        await self._world.act(0.0001, 0.002)
        return self.running().layer_id

    async def merge_layers(self) -> None:
        """Do nothing: each layer holds all files."""

    async def grow_disk(self, size_b: int) -> None:
        """Enlarge the disk."""
        self.running()
        await self._world.act(0.0005, 0.01)
        guest = self.running().guest
        guest.disk_b = max(guest.disk_b, size_b)

    async def console(self) -> str:
        """Return the end of the log, which is the console too."""
        return self._log_end(_CONSOLE_LIMIT_B)

    def log_tail(self) -> str:
        """Return a shorter end of it."""
        return self._log_end(_LOG_TAIL_B)

    def _log_end(self, limit_b: int) -> str:
        with contextlib.suppress(OSError):
            return self._machine.log.read_bytes()[-limit_b:].decode(errors="replace")
        return ""

    async def maintain(self, *, may_unsuspend: bool) -> bool:
        """Truncate the log, and let a suspended machine continue."""
        with contextlib.suppress(FileNotFoundError):
            if self._machine.log.stat().st_size > _LOG_LIMIT_B:
                os.truncate(self._machine.log, 0)
        if not may_unsuspend or not self.running().is_suspended:
            return False
        await self.unsuspend()
        return True

    def usage(self) -> ProcessUsage | None:
        """Return the memory that a guest of this world has, and no CPU time."""
        return None if self._machine.ended.is_set() else ProcessUsage(0.0, _RESIDENT_B)

    def proportional_b(self) -> int | None:
        """Return the same memory: nothing is shared."""
        return None if self._machine.ended.is_set() else _RESIDENT_B

    def disconnect(self) -> None:
        """Do nothing: there is no connection."""

    async def kill(self) -> None:
        """End the machine."""
        await self._world.act(0.0005, 0.02)
        self._world.kill(self._handle.process)
        await self._world.answer()

    async def wait_exit(self) -> None:
        """Return when the machine has ended."""
        await self._machine.ended.wait()


class InProcessDriver:
    """Starts machines of a world. Implements `wrenn.vm.driver.Driver`."""

    vmm = "in process 1"
    accelerator = "none"
    shows_host_cpu = False
    machine = "memory"
    capabilities = Capabilities(keeps_memory=True, merges_layers=False, sized_disks=True)

    def __init__(self, world: World, folders: Folders) -> None:
        self._world = world
        self._bases = FolderBases(folders.bases)
        self._disks = MemoryDisks(world)
        self._memory = MemoryFiles(world, self._bases, folders.snapshots)

    @property
    def disks(self) -> MemoryDisks:
        """The layers of root disks."""
        return self._disks

    @property
    def memory(self) -> MemoryFiles:
        """Saved memory."""
        return self._memory

    @property
    def bases(self) -> FolderBases:
        """The stored bases."""
        return self._bases

    async def boot(self, request: BootRequest) -> Machine:
        """Not supported: bases are made without a boot."""
        del request
        raise AssertionError(_NO_BOOT)

    async def save_boot(self, machine: Machine, request: BootRequest) -> None:
        """Not supported, as `boot`."""
        del machine, request
        raise AssertionError(_NO_BOOT)

    async def restore(self, request: RestoreRequest) -> InProcessMachine:
        """Start a machine with the memory of a snapshot, or as it is after a boot."""
        saved = request.saved or request.image.snapshot
        await self._memory.load(ImageRef(request.image.base, saved))
        memory = self._memory.read(saved) if saved else GuestMemory()
        if request.disk.layers[0] not in self._world.layers:
            raise AgentFailure("The virtual machine did not start.", context={"layer": "missing"})
        machine = self._world.start(request, memory)
        await self._world.act(0.001, 0.05)
        handle = MachineHandle(machine.process, request.directory)
        return InProcessMachine(self._world, handle, machine)

    async def adopt(self, handle: MachineHandle) -> InProcessMachine | None:
        """Return a machine that a former agent started, or None if it has ended."""
        await self._world.act(0.0005, 0.01)
        machine = self._world.machines.get(handle.process)
        return None if machine is None else InProcessMachine(self._world, handle, machine)

    async def flatten(self, request: FlattenRequest) -> None:
        """Write an empty image: bases are no more than a manifest, so it would not be read."""
        await self._world.act(0.01, 0.5)
        require_alive()
        with request.image.open("xb") as image:
            image.truncate(request.size_b)
        await self._world.answer()

    async def kill(self, process: ProcessRef, directory: Path) -> None:
        """End a VMM that nobody has adopted."""
        del directory
        await kill_and_wait(process, timeout_s=_KILL_TIMEOUT_S)

    async def clean(self, directory: Path) -> None:
        """Do nothing: nothing is left of a machine that has ended."""

    async def sweep(self) -> None:
        """Do nothing: nothing is left of a machine that has ended."""

    async def close(self) -> None:
        """Do nothing: the driver has no resources."""


class MemoryConfiner:
    """Finds machines by the name of their sandbox. Implements `wrenn.agent.confinement.Confiner`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def confine(
        self, name: str, slot_index: int, shape: Shape, *, file_size_b: int, io_b_per_s: int = 0
    ) -> Confinement:
        """Remember the name."""
        del slot_index, shape, io_b_per_s
        require_alive()
        self._world.groups.setdefault(name, None)
        return Confinement(uid=0, cgroup_procs=(Path(name),), file_size_b=file_size_b)

    async def release(self, name: str) -> None:
        """End the machine of `name` and forget it."""
        await self._world.act(0.0005, 0.02)
        if (process := self._world.groups.pop(name, None)) is not None:
            self._world.kill(process)
        await self._world.answer()

    def names(self) -> list[str]:
        """Return the names that have a machine, or had one."""
        return sorted(self._world.groups)

    def raise_file_limit(self, process: ProcessRef, size_b: int, *, at_least_b: int) -> bool:
        """Return True: there are no limits."""
        del process, size_b, at_least_b
        return True


class MemoryBaseMaker(FolderBaseMaker):
    """Makes bases that are no more than a manifest."""

    async def make(self, undo: Undo, draft: Path, key: str, template: str, shape: Shape) -> None:
        """Make the empty folder that a base consists of."""
        del undo, key, template, shape
        (draft / "root").mkdir()
