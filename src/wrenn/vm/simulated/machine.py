"""A simulated VM: a guest agent process in its folder."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.base.errors import AgentFailure
from wrenn.linux.container import continue_container, is_stopped, kill_members, root_of, stop_container
from wrenn.linux.files import remove_tree
from wrenn.linux.process import kill_and_wait
from wrenn.linux.process_usage import (
    ProcessUsage,
    read_proportional_b,
    total_usage,
    with_descendants,
)
from wrenn.linux.threads import run_to_end
from wrenn.linux.trees import copy_tree, exchange
from wrenn.vm.machine import MachineHandle
from wrenn.vm.simulated.disks import FolderDisks

LOG_NAME: Final = "vmm.log"
_SWITCHED: Final = "switched"
"""Folder beside the log in which a layer is copied."""
_KILL_TIMEOUT_S: Final = 10.0
_LOG_TAIL_B: Final = 2000
_LOG_LIMIT_B: Final = 1024 * 1024
_CONSOLE_LIMIT_B: Final = 64 * 1024


class SimulatedMachine:
    """A guest agent as a process. Implements `wrenn.vm.machine.Machine`."""

    def __init__(self, handle: MachineHandle, disks: FolderDisks) -> None:
        self._handle = handle
        self._disks = disks

    @property
    def handle(self) -> MachineHandle:
        """What identifies this guest across restarts of the agent."""
        return self._handle

    def check_alive(self) -> None:
        """Raise AgentFailure if the process has ended."""
        if not self._handle.process.is_alive():
            raise AgentFailure("The virtual machine has ended.", context={"log": self.log_tail()})

    async def note_guest_ready(self) -> None:
        """Do nothing: starts do not depend on earlier ones."""

    async def suspend(self, *, flush: bool = True) -> None:
        """Stop all processes of the guest. What they wrote is in files already."""
        del flush
        self.check_alive()
        try:
            await run_to_end(partial(stop_container, self._handle.process))
        except TimeoutError as error:
            raise AgentFailure("The programs of the guest do not stop.") from error
        self.check_alive()

    async def unsuspend(self) -> None:
        """Let all processes of the guest continue."""
        self.check_alive()
        await run_to_end(partial(continue_container, self._handle.process))

    async def switch_layer(self, layer_id: str) -> None:
        """Give the guest's folder the name of the new layer, and the former name to a copy of the folder.

        The processes keep the folder that they have. The two names are exchanged in one step.
        """
        former = await self.written_layer()
        stood_still = is_stopped(self._handle.process)
        await self.suspend()
        copy = self._handle.directory / _SWITCHED
        remove_tree(copy)
        await copy_tree(self._disks.path(former), copy)
        exchange(copy, self._disks.path(layer_id))
        exchange(self._disks.path(former), self._disks.path(layer_id))
        if not stood_still:
            await self.unsuspend()
        await run_to_end(partial(remove_tree, copy))

    async def written_layer(self) -> str:
        """Return the layer whose folder is the root directory of the processes."""
        try:
            root = root_of(self._handle.process)
        except OSError as error:
            raise AgentFailure("The virtual machine has ended.", context={"log": self.log_tail()}) from error
        for layer_id in self._disks.list_ids():
            with contextlib.suppress(FileNotFoundError):
                found = self._disks.path(layer_id).stat()
                if (found.st_dev, found.st_ino) == root:
                    return layer_id
        raise AgentFailure("The virtual machine writes to no layer of this host.")

    async def merge_layers(self) -> None:
        """Do nothing: each layer holds all files."""

    async def grow_disk(self, size_b: int) -> None:
        """Do nothing: disks of this driver have no size."""
        del size_b
        self.check_alive()

    async def console(self) -> str:
        """Return the end of the guest agent's output."""
        return self._log_end(_CONSOLE_LIMIT_B)

    def log_tail(self) -> str:
        """Return a shorter end of the same output."""
        return self._log_end(_LOG_TAIL_B)

    def _log_end(self, limit_b: int) -> str:
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - limit_b))
            return log.read(limit_b).decode(errors="replace")[-limit_b:]
        return ""

    @property
    def _log(self) -> Path:
        return self._handle.directory / LOG_NAME

    async def maintain(self, *, may_unsuspend: bool) -> bool:
        """Truncate the log, and let a stopped guest continue."""
        with contextlib.suppress(FileNotFoundError):
            if self._log.stat().st_size > _LOG_LIMIT_B:
                os.truncate(self._log, 0)  # it is appended to
        if not may_unsuspend or not is_stopped(self._handle.process):
            return False
        await self.unsuspend()
        return True

    def usage(self) -> ProcessUsage | None:
        """Return CPU time and resident memory of the guest agent and what it started."""
        if not self._handle.process.is_alive():
            return None
        return total_usage(with_descendants(self._handle.process))

    def proportional_b(self) -> int | None:
        """Return their share of the memory that they use."""
        if not self._handle.process.is_alive():
            return None
        return sum(read_proportional_b(each) or 0 for each in with_descendants(self._handle.process))

    def disconnect(self) -> None:
        """Do nothing: there is no connection."""

    async def kill(self) -> None:
        """Kill the first process, with which all others end. Of a stopped guest nothing runs any more, and its disk stays as it is."""
        if is_stopped(self._handle.process):
            await run_to_end(partial(kill_members, self._handle.process))
        await kill_and_wait(self._handle.process, timeout_s=_KILL_TIMEOUT_S)

    async def wait_exit(self) -> None:
        """Return when the guest has ended."""
        await self._handle.process.wait_exit()
