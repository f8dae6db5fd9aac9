"""A running QEMU process: its control connection, its process, its log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import Any, Final, cast

from wrenn.base.errors import AgentFailure
from wrenn.base.on_failure import on_failure
from wrenn.base.units import MIB
from wrenn.linux.process import ProcessRef, kill_and_wait
from wrenn.linux.process_memory import ProcessMemory, find_mapping
from wrenn.linux.process_usage import ProcessUsage, read_proportional_b, read_usage
from wrenn.vm.machine import MachineHandle
from wrenn.vm.qemu import command_line
from wrenn.vm.qemu.disks import Qcow2Disks
from wrenn.vm.qemu.qmp import Qmp, QmpError

_log = logging.getLogger(__name__)

SOCKET_NAME: Final = "qmp.sock"
LOG_NAME: Final = "vmm.log"
CONSOLE_NAME: Final = "console.log"
_KILL_TIMEOUT_S: Final = 10.0
_LOG_TAIL_B: Final = 2000
_LOG_LIMIT_B: Final = 1024 * 1024
"""A hostile guest can make QEMU complain without end."""
_MEMORY_NAME: Final = "/memfd:wrenn-"
"""How the mapping of a memory image begins in /proc/PID/maps; nothing else of QEMU's is called so."""
_MERGE: Final = "merge"
"""Name of the job that merges layers."""
_MERGE_B_PER_S: Final = 64 * MIB
"""The guest's own reads and writes go first."""
_MERGE_POLL_S: Final = 0.2
_NODE_ATTEMPTS: Final = 20
_NODE_POLL_S: Final = 0.05
_MERGE_END_POLL_S: Final = 0.001
_MERGE_END_TIMEOUT_S: Final = 5.0
_STATE_FDSET: Final = 100
"""Number of the descriptor set for saved state; disks use the low numbers."""


class QemuMachine:
    """A VM run by QEMU. Implements `wrenn.vm.machine.Machine`."""

    def __init__(self, handle: MachineHandle, disks: Qcow2Disks) -> None:
        self._handle = handle
        self._disks = disks
        self._qmp: Qmp | None = None
        self._turn = asyncio.Lock()
        """QEMU serves one monitor at a time, so commands share one connection."""
        self._console = ""
        """The end of what was read from the ring buffer of the console, which loses what is read."""

    @property
    def handle(self) -> MachineHandle:
        """What identifies this VM across restarts of the agent."""
        return self._handle

    async def _monitor(self) -> Qmp:
        if self._qmp is None:
            self._qmp = await Qmp.connect(self._handle.directory / SOCKET_NAME)
        return self._qmp

    async def _execute(
        self, command: str, arguments: dict[str, object] | None = None, *, fds: tuple[int, ...] = ()
    ) -> object:
        async with self._turn:
            qmp = await self._monitor()
            with on_failure(self.disconnect):
                # After a failure, the connection may be out of step; the next command opens a new one.
                return await qmp.execute(command, arguments, fds=fds)

    async def _status(self) -> str:
        answer = await self._execute("query-status")
        return str(cast("dict[str, object]", answer).get("status")) if isinstance(answer, dict) else "unknown"

    def log_tail(self) -> str:
        """Return the end of QEMU's log."""
        with contextlib.suppress(OSError), (self._handle.directory / LOG_NAME).open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _LOG_TAIL_B))
            return log.read(_LOG_TAIL_B).decode(errors="replace")
        return ""

    async def note_guest_ready(self) -> None:
        """Do nothing: starts do not depend on earlier ones."""

    async def suspend(self, *, flush: bool = True) -> None:
        """Stop the vCPUs; QEMU flushes pending disk writes as part of that."""
        del flush
        await self._end_merge()  # it would go on writing to a layer that is taken to be frozen
        await self._execute("stop")

    async def unsuspend(self) -> None:
        """Let the vCPUs continue."""
        await self._execute("cont")

    def memory(self) -> ProcessMemory:
        """The guest's RAM in QEMU; may be read while the VM is suspended.

        Raises:
            AgentFailure: QEMU is gone.
        """
        memory = find_memory(self._handle.process)
        if memory is None:
            raise AgentFailure("The virtual machine has ended.", context={"log": self.log_tail()})
        return memory

    async def save_state(self, path: Path) -> None:
        """Write the device state of the suspended VM to the new file `path`."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            await self._execute("add-fd", {"fdset-id": _STATE_FDSET}, fds=(fd,))
            # Not `live`: that would mean another process takes over, and close the disk in this one.
            arguments: dict[str, object] = {"filename": f"/dev/fdset/{_STATE_FDSET}", "live": False}
            await self._execute("xen-save-devices-state", arguments)
            await self._execute("remove-fd", {"fdset-id": _STATE_FDSET})
        finally:
            os.close(fd)

    async def switch_layer(self, layer_id: str) -> None:
        """Add the layer's overlay on top of the present one."""
        await self._end_merge()
        fd = os.open(self._disks.path(layer_id), os.O_RDWR | os.O_CLOEXEC)
        try:
            added = cast("dict[str, int]", await self._execute("add-fd", fds=(fd,)))
        finally:
            os.close(fd)
        for node in command_line.overlay_nodes(added["fdset-id"], layer_id):
            await self._execute("blockdev-add", node)
        await self._execute("blockdev-snapshot", {"node": await self.written_layer(), "overlay": layer_id})

    async def written_layer(self) -> str:
        """Return the name of the root disk's top block node, which is the layer's id."""
        devices: list[dict[str, Any]] = []
        for _ in range(_NODE_ATTEMPTS):
            devices = cast("list[dict[str, Any]]", await self._execute("query-block"))
            names = [str(device["inserted"]["node-name"]) for device in devices if "inserted" in device]
            if names:
                return names[0]
            # Seen once while a merge was under way: the disk was there, but without a node.
            await asyncio.sleep(_NODE_POLL_S)
        raise AgentFailure(
            "QEMU does not say which layer it writes.", context={"devices": str(devices)[:500]}
        )

    async def grow_disk(self, size_b: int) -> None:
        """Enlarge the overlay; QEMU notifies the guest. Beyond the layers below, the disk reads as zeros."""
        await self._end_merge()  # it blocks this
        await self._execute("block_resize", {"node-name": await self.written_layer(), "size": size_b})

    async def merge_layers(self) -> None:
        """Stream the layers below into the overlay; QEMU then drops them."""
        try:
            await self._end_merge()  # a former agent's
            await self._merge()
        finally:
            await asyncio.shield(self._end_merge())

    async def _merge(self) -> None:
        arguments: dict[str, object] = {
            "job-id": _MERGE,
            "device": await self.written_layer(),
            "base-node": command_line.BASE_NODE,
            "speed": _MERGE_B_PER_S,
            "auto-dismiss": False,
        }
        await self._execute("block-stream", arguments)
        job = await self._merge_job()
        while job is not None and job["status"] != "concluded":
            # The events of QEMU are not followed: a new agent has missed them.
            await asyncio.sleep(_MERGE_POLL_S)
            job = await self._merge_job()
        if job is None or "error" in job:
            raise AgentFailure("The layers of the disk were not merged.", context={"job": str(job)})

    async def _merge_job(self) -> dict[str, Any] | None:
        jobs = cast("list[dict[str, Any]]", await self._execute("query-jobs"))
        return next((job for job in jobs if job["id"] == _MERGE), None)

    async def _end_merge(self) -> None:
        """Cancel a merge that is under way; costs one query if there is none."""
        try:
            async with asyncio.timeout(_MERGE_END_TIMEOUT_S):
                while (job := await self._merge_job()) is not None:
                    # A job that ended between the look and the command refuses it.
                    with contextlib.suppress(QmpError):
                        await self._execute(
                            "job-dismiss" if job["status"] == "concluded" else "job-cancel", {"id": _MERGE}
                        )
                    await asyncio.sleep(_MERGE_END_POLL_S)
        except TimeoutError as error:
            raise AgentFailure("The VMM does not stop merging the layers of the disk.") from error

    async def console(self) -> str:
        """Return the end of the serial console's output."""
        with contextlib.suppress(FileNotFoundError):
            text = (self._handle.directory / CONSOLE_NAME).read_text(errors="replace")
            return text[-command_line.CONSOLE_LIMIT_B :]
        if not self._handle.process.is_alive():
            return ""
        arguments: dict[str, object] = {
            "device": "console",
            "size": command_line.CONSOLE_LIMIT_B,
            "format": "utf8",
        }
        text = str(await self._execute("ringbuf-read", arguments))
        self._console = (self._console + text)[-command_line.CONSOLE_LIMIT_B :]
        return self._console

    async def maintain(self, *, may_unsuspend: bool) -> bool:
        """Truncate the log, and unsuspend a VM that stopped on a full disk or after a failed operation."""
        log = self._handle.directory / LOG_NAME
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > _LOG_LIMIT_B:
                os.truncate(log, 0)  # QEMU appends
        if not may_unsuspend or await self._status() not in ("io-error", "paused"):
            return False
        await self._execute("cont")
        return True

    def usage(self) -> ProcessUsage | None:
        """Return CPU time and resident memory of QEMU."""
        return read_usage(self._handle.process)

    def proportional_b(self) -> int | None:
        """Return QEMU's share of the memory that it uses; base memory is shared with other VMs."""
        return read_proportional_b(self._handle.process)

    def disconnect(self) -> None:
        """Close the control connection; QEMU runs on."""
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None

    async def kill(self) -> None:
        """End QEMU and wait until it is gone."""
        self.disconnect()
        await kill_and_wait(self._handle.process, timeout_s=_KILL_TIMEOUT_S)
        self.disconnect()  # a command may have connected meanwhile

    async def wait_exit(self) -> None:
        """Return when QEMU has ended."""
        ended_with = await self._handle.process.wait_exit()
        self.disconnect()
        if ended_with == -signal.SIGSYS:
            # No QEMU of ours makes such a call: its guest may have taken it over. The kernel's log names the call.
            fields = {"vm": self._handle.directory.name, "pid": self._handle.process.pid}
            _log.warning("VMM ended for a forbidden system call", extra=fields)


def find_memory(process: ProcessRef) -> ProcessMemory | None:
    """Return where a restored QEMU has the guest's RAM; None if it has none yet, or has ended."""
    with contextlib.suppress(OSError):
        memory = find_mapping(process.pid, _MEMORY_NAME)
        return memory if process.is_alive() else None
    return None
