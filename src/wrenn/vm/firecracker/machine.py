"""A running Firecracker: its process, its API, its disk, its log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from wrenn.base.errors import AgentFailure, StorageFull
from wrenn.base.undo import Undo
from wrenn.base.units import KIB, MIB
from wrenn.linux.files import remove_tree
from wrenn.linux.process import ProcessRef, kill_and_wait
from wrenn.linux.process_usage import ProcessUsage, read_proportional_b, read_usage
from wrenn.linux.threads import run_to_end
from wrenn.vm.firecracker.api import FirecrackerApi, InstanceState, SnapshotKind
from wrenn.vm.firecracker.block_disks import AttachedDisk, BlockDisks
from wrenn.vm.firecracker.jail_files import DIRTIED, DISK, MEMORY, STATE
from wrenn.vm.firecracker.page_order import PageOrder
from wrenn.vm.firecracker.pager import kill_without_pager
from wrenn.vm.machine import MachineHandle

_log = logging.getLogger(__name__)

SOCKET_NAME: Final = "api.sock"
LOG_NAME: Final = "vmm.log"
JAIL_NAME: Final = "firecracker"
"""Folder in that of the machine in which the jailer makes the jail."""
BOOTED_NAME: Final = "booted"
"""File beside the jail that says that the machine's memory began as zeros, not as the image. It goes with the jail: the next machine in this
folder may begin otherwise."""
DRIVE: Final = "root"
_KILL_TIMEOUT_S: Final = 10.0
_LOG_TAIL_B: Final = 2000
_LOG_LIMIT_B: Final = MIB
"""The guest's console and messages of Firecracker; a hostile guest can write without end."""
_CONSOLE_LIMIT_B: Final = 64 * KIB


def disk_name(directory: Path) -> str:
    """Return the name of the disk of the machine in this folder. The folder of a base that is being made begins with a dot."""
    return directory.name.lstrip(".")


class FirecrackerMachine:
    """A VM run by Firecracker. Implements `wrenn.vm.machine.Machine`."""

    def __init__(
        self, handle: MachineHandle, root: Path, disks: BlockDisks, disk: AttachedDisk | None
    ) -> None:
        self._handle = handle
        self._root = root
        self._disks = disks
        self._disk = disk
        self._pager: ProcessRef | None = None
        self._watching: asyncio.Task[None] | None = None
        self._order: PageOrder | None = None
        self._vcpus = asyncio.Lock()
        """Held while the vCPUs are stopped or continued."""
        self._is_suspended = False
        """Whether `suspend` was called last. A former agent may have suspended the VM."""
        self._in_standstill = False

    @property
    def handle(self) -> MachineHandle:
        """What identifies this VM across restarts of the agent."""
        return self._handle

    @property
    def root(self) -> Path:
        """Its jail."""
        return self._root

    @asynccontextmanager
    async def api(self) -> AsyncGenerator[FirecrackerApi]:
        """Return a context with a connection to the API."""
        async with FirecrackerApi(self._handle.directory / SOCKET_NAME) as api:
            yield api

    def _attached(self) -> AttachedDisk:
        if self._disk is None or not self._handle.process.is_alive():
            raise AgentFailure("The virtual machine has ended.", context={"log": self.log_tail()})
        return self._disk

    async def note_guest_ready(self) -> None:
        """Store the order in which the page-fault server was asked for pages until now."""
        if self._order is not None:
            await run_to_end(self._order.keep)

    async def suspend(self, *, flush: bool = True) -> None:
        """Stop the vCPUs, and write to the layer what the kernel still has of the disk in memory."""
        async with self._vcpus, self.api() as api:
            await api.pause()
            self._is_suspended = True
        if not flush:
            return
        disk = self._attached()
        await disk.flush()
        if not await disk.is_whole():
            raise AgentFailure("The sandbox's disk is lost: the host's disk was full when it was written.")

    async def unsuspend(self) -> None:
        """Let the vCPUs continue."""
        async with self._vcpus:
            self._is_suspended = False
            await self._continue()

    async def _continue(self) -> None:
        if not (self._is_suspended or self._in_standstill):
            async with self.api() as api:
                await api.resume()

    @asynccontextmanager
    async def standstill(self) -> AsyncGenerator[None]:
        """A context in which the vCPUs are stopped. Afterwards they continue, unless the VM is suspended by then."""
        async with Undo() as undo:
            async with self._vcpus, self.api() as api:
                if (await api.describe()).state is InstanceState.PAUSED:
                    self._is_suspended = True
                undo.push("let the vCPUs continue", self._end_standstill)
                self._in_standstill = True
                await api.pause()
            yield

    async def _end_standstill(self) -> None:
        async with self._vcpus:
            self._in_standstill = False
            await self._continue()

    async def save_dirtied(self, *, memory_b: int) -> None:
        """Add the pages that were dirtied since the last save to the file of dirtied pages, and write the device state. The VM is suspended."""
        async with self.api() as api:
            await api.create_snapshot(
                kind=SnapshotKind.DIFF, state=f"/{STATE}", memory=f"/{DIRTIED}", memory_b=memory_b
            )

    async def save_all(self, *, memory_b: int) -> None:
        """Write the whole memory and the device state. The VM is suspended."""
        async with self.api() as api:
            await api.create_snapshot(
                kind=SnapshotKind.FULL, state=f"/{STATE}", memory=f"/{MEMORY}", memory_b=memory_b
            )

    async def switch_layer(self, layer_id: str) -> None:
        """Put the layer on top of the disk; Firecracker has the same device as before."""
        await self._attached().switch_layer(layer_id)

    async def written_layer(self) -> str:
        """Return the layer that the kernel writes to."""
        return await self._attached().written_layer()

    async def merge_layers(self) -> None:
        """Copy the frozen layers into the written one. The guest's requests wait only while the written one itself is copied."""
        async with self._explaining_waits():
            await self._attached().merge_layers(self.standstill)

    async def grow_disk(self, size_b: int) -> None:
        """Enlarge the device, then have Firecracker notice, which notifies the guest."""
        async with self._explaining_waits():
            await self._attached().grow(size_b, self.standstill)
            async with self.api() as api:
                await api.update_drive(DRIVE, f"/{DISK}")

    @asynccontextmanager
    async def _explaining_waits(self) -> AsyncGenerator[None]:
        """Raise StorageFull instead of AgentFailure if writes wait for space: Firecracker may not answer meanwhile."""
        try:
            yield
        except AgentFailure as error:
            disk = self._disk
            if disk is None or not self._disks.waits_for_space(await disk.written_layer()):
                raise
            raise StorageFull(
                "The disk of the host is full, and the sandbox waits until there is space."
            ) from error

    async def console(self) -> str:
        """Return the end of what the guest wrote to its serial console, between messages of Firecracker."""
        return self._tail(_CONSOLE_LIMIT_B)

    def log_tail(self) -> str:
        """Return the end of the log."""
        return self._tail(_LOG_TAIL_B)

    def _tail(self, size_b: int) -> str:
        with contextlib.suppress(OSError), (self._handle.directory / LOG_NAME).open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - size_b))
            return log.read(size_b).decode(errors="replace")
        return ""

    async def maintain(self, *, may_unsuspend: bool) -> bool:
        """Truncate the log, and unsuspend a VM that stands still after a failed operation."""
        log = self._handle.directory / LOG_NAME
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > _LOG_LIMIT_B:
                os.truncate(log, 0)  # it is appended to
        if not may_unsuspend or not self._handle.process.is_alive():
            return False
        async with self._vcpus, self.api() as api:
            if self._in_standstill or (await api.describe()).state is not InstanceState.PAUSED:
                return False
            self._is_suspended = False
            await api.resume()
        return True

    def usage(self) -> ProcessUsage | None:
        """Return CPU time and resident memory of Firecracker."""
        return read_usage(self._handle.process)

    def proportional_b(self) -> int | None:
        """Return Firecracker's share of the memory that it uses; pages of the memory image are shared with other VMs."""
        return read_proportional_b(self._handle.process)

    def watch_pager(self, pager: ProcessRef, order: PageOrder | None = None) -> None:
        """From now on the VM ends when its page-fault server does. `disconnect` stops the watch. `order` is that of its start."""
        self._pager = pager
        self._order = order
        self._watching = asyncio.create_task(
            kill_without_pager(self._handle.process, pager), name=f"watch pager {pager.pid}"
        )

    async def forget_pager(self) -> None:
        """Stop the watch."""
        self.disconnect()
        self._pager = None

    def disconnect(self) -> None:
        """Stop watching the page-fault server: the next agent does. Calls have connections of their own."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def kill(self) -> None:
        """End Firecracker and its page-fault server, wait until they are gone, and then remove its disk's devices and its jail."""
        self.disconnect()
        self._handle.process.kill()
        await self._disks.give_up(disk_name(self._handle.directory))
        await kill_and_wait(self._handle.process, timeout_s=_KILL_TIMEOUT_S)
        if self._pager is not None:
            await kill_and_wait(self._pager, timeout_s=_KILL_TIMEOUT_S)
        await self._disks.detach(disk_name(self._handle.directory))
        await run_to_end(lambda: remove_tree(self._handle.directory / JAIL_NAME))

    async def wait_exit(self) -> None:
        """Return when Firecracker has ended."""
        ended_with = await self._handle.process.wait_exit()
        if ended_with == -signal.SIGSYS:
            # No Firecracker of ours makes such a call: its guest may have taken it over. The kernel's log names the call.
            fields = {"vm": self._handle.directory.name, "pid": self._handle.process.pid}
            _log.warning("VMM ended for a forbidden system call", extra=fields)
