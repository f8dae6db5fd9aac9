"""Starts guest agents as processes and adopts those of a former agent."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.base.errors import AgentFailure
from wrenn.linux.command import CommandError
from wrenn.linux.container import start_container
from wrenn.linux.process import ProcessRef, kill_and_wait
from wrenn.linux.trees import pack_tree
from wrenn.storage.folders import Folders
from wrenn.vm.driver import BootRequest, Capabilities, FlattenRequest, RestoreRequest
from wrenn.vm.machine import Machine, MachineHandle
from wrenn.vm.simulated.bases import FolderBases
from wrenn.vm.simulated.disks import FolderDisks
from wrenn.vm.simulated.groups import write_process
from wrenn.vm.simulated.machine import LOG_NAME, SimulatedMachine
from wrenn.vm.simulated.memory import NoMemory

_KILL_TIMEOUT_S: Final = 10.0
_NO_BOOT: Final = "a base of the simulated driver is never booted"


class SimulatedDriver:
    """Runs guest agents as processes. Implements `wrenn.vm.driver.Driver`."""

    accelerator = "none"
    shows_host_cpu = False
    machine = "processes"
    capabilities = Capabilities(keeps_memory=False, merges_layers=False, sized_disks=False)

    def __init__(
        self, *, folders: Folders, envd: Path, port: int, state_b: int = 0, vmm: str = "simulated 1"
    ) -> None:
        # `state_b` is the least size of the state file of a snapshot, which is the size that users see.
        self.vmm = vmm
        self._envd = envd
        self._port = port
        self._bases = FolderBases(folders.bases)
        self._disks = FolderDisks(folders.layers, self._bases)
        self._memory = NoMemory(self._bases, state_b=state_b)

    @property
    def disks(self) -> FolderDisks:
        """The layers of root disks."""
        return self._disks

    @property
    def memory(self) -> NoMemory:
        """Memory images; this driver saves no memory."""
        return self._memory

    @property
    def bases(self) -> FolderBases:
        """The stored bases."""
        return self._bases

    async def boot(self, request: BootRequest) -> SimulatedMachine:
        """Not supported: `FolderBaseMaker` makes bases without a boot."""
        del request
        raise AssertionError(_NO_BOOT)

    async def save_boot(self, machine: Machine, request: BootRequest) -> None:
        """Not supported, as `boot`."""
        del machine, request
        raise AssertionError(_NO_BOOT)

    async def restore(self, request: RestoreRequest) -> SimulatedMachine:
        """Start the guest agent in the folder of the topmost layer."""
        await self._memory.load(request.image)
        try:
            process = await start_container(
                self._disks.path(request.disk.layers[0]),
                self._envd,
                ["serve", "--listen", f"{request.link.address}:{self._port}"],
                log=request.directory / LOG_NAME,
                on_born=partial(_note, request.confinement.cgroup_procs),
            )
        except CommandError as error:
            raise AgentFailure("The virtual machine did not start.", context=error.context) from error
        return SimulatedMachine(MachineHandle(process, request.directory), self._disks)

    async def adopt(self, handle: MachineHandle) -> SimulatedMachine | None:
        """Return the guest that a former agent started, or None if it has ended."""
        return SimulatedMachine(handle, self._disks) if handle.process.is_alive() else None

    async def flatten(self, request: FlattenRequest) -> None:
        """Pack the folder of the topmost layer. The archive ends long before the file, which is as large as the disk."""
        top = request.disk.layers[0]
        await pack_tree(self._disks.path(top), request.image, size_b=request.size_b)
        request.on_progress(request.size_b, request.size_b)

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


def _note(files: Sequence[Path], process: ProcessRef) -> None:
    for file in files:
        write_process(file, process)
