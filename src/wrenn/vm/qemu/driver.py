"""Start, save and end QEMU VMs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from wrenn.base.errors import AgentFailure
from wrenn.base.units import MIB
from wrenn.linux import threads
from wrenn.linux.memfd import sealed_copy
from wrenn.linux.private_root import PrivateRoot
from wrenn.linux.process import ProcessRef, kill_and_wait
from wrenn.linux.process_memory import ProcessMemory, find_mapping
from wrenn.linux.spawn import Confinement, spawn_confined
from wrenn.vm.driver import BootRequest, Disk, RestoreRequest, Shape, Vm, VmHandle
from wrenn.vm.qemu import command_line
from wrenn.vm.qemu.command_line import Descriptors
from wrenn.vm.qemu.installation import build_root
from wrenn.vm.qemu.probe import kvm_group
from wrenn.vm.qemu.qmp import Qmp, QmpError

_log = logging.getLogger(__name__)

_SOCKET_NAME: Final = "qmp.sock"
_LOG_NAME: Final = "vmm.log"
_CONSOLE_NAME: Final = "console.log"
_KILL_TIMEOUT_S: Final = 10.0
_LOG_TAIL_B: Final = 2000
_LOG_LIMIT_B: Final = 1024 * 1024
"""A hostile guest can make QEMU complain without end."""
_MEMORY_NAME: Final = "/memfd:wrenn-"
"""How the mapping of a memory image begins in /proc/PID/maps; nothing else of QEMU's is called so."""
_MAPPING_TIMEOUT_S: Final = 10.0
_FILL_TIMEOUT_S: Final = 30.0
"""A gigabyte takes half a second from memory, some seconds from a slow disk."""
_MAPPING_POLL_S: Final = 0.001
"""QEMU maps its memory some 20 ms after it was started, and tells nobody."""
_MERGE: Final = "merge"
"""Name of the job that merges layers."""
_MERGE_B_PER_S: Final = 64 * MIB
"""The guest's own reads and writes go first."""
_MERGE_POLL_S: Final = 0.2
_MERGE_END_TIMEOUT_S: Final = 5.0
_STATE_FDSET: Final = 100
"""Number of the descriptor set for saved state; disks use the low numbers."""


class QemuVm:
    """A VM run by QEMU. See `wrenn.vm.driver.Vm`."""

    def __init__(self, handle: VmHandle) -> None:
        self._handle = handle
        self._qmp: Qmp | None = None
        self._turn = asyncio.Lock()
        """QEMU serves one monitor at a time, so commands share one connection."""

    @property
    def handle(self) -> VmHandle:
        """How to find it again."""
        return self._handle

    async def _monitor(self) -> Qmp:
        if self._qmp is None:
            self._qmp = await Qmp.connect(self._handle.directory / _SOCKET_NAME)
        return self._qmp

    async def _execute(
        self, command: str, arguments: dict[str, object] | None = None, *, fds: tuple[int, ...] = ()
    ) -> object:
        async with self._turn:
            qmp = await self._monitor()
            try:
                return await qmp.execute(command, arguments, fds=fds)
            except BaseException:
                # The connection may be out of step; the next command opens a new one.
                qmp.close()
                self._qmp = None
                raise

    async def _status(self) -> str:
        answer = await self._execute("query-status")
        return str(cast("dict[str, object]", answer).get("status")) if isinstance(answer, dict) else "unknown"

    def log_tail(self) -> str:
        """The end of QEMU's own messages."""
        with contextlib.suppress(OSError), (self._handle.directory / _LOG_NAME).open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _LOG_TAIL_B))
            return log.read(_LOG_TAIL_B).decode(errors="replace")
        return ""

    async def freeze(self) -> None:
        """Stop the vCPUs; QEMU writes out what it holds of the disk as part of it."""
        await self._end_merge()  # it would go on writing to a layer that is taken to be frozen
        await self._execute("stop")

    async def thaw(self) -> None:
        """Let the vCPUs run on."""
        await self._execute("cont")

    def memory(self) -> ProcessMemory:
        """The guest's RAM."""
        memory = _mapping(self._handle.process)
        if memory is None:
            raise AgentFailure("The virtual machine has ended.", context={"log": self.log_tail()})
        return memory

    async def save_state(self, path: Path) -> None:
        """Write the device state of the frozen VM to the new file `path`."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            await self._execute("add-fd", {"fdset-id": _STATE_FDSET}, fds=(fd,))
            # Not `live`: that would mean another process takes over, and close the disk in this one.
            arguments: dict[str, object] = {"filename": f"/dev/fdset/{_STATE_FDSET}", "live": False}
            await self._execute("xen-save-devices-state", arguments)
            await self._execute("remove-fd", {"fdset-id": _STATE_FDSET})
        finally:
            os.close(fd)

    async def put_overlay(self, overlay: Path) -> None:
        """Put `overlay` over the one in use."""
        await self._end_merge()
        fd = os.open(overlay, os.O_RDWR | os.O_CLOEXEC)
        try:
            added = cast("dict[str, int]", await self._execute("add-fd", fds=(fd,)))
        finally:
            os.close(fd)
        for node in command_line.overlay_nodes(added["fdset-id"], overlay.stem):
            await self._execute("blockdev-add", node)
        await self._execute("blockdev-snapshot", {"node": await self.overlay(), "overlay": overlay.stem})

    async def overlay(self) -> str:
        """The block node on which the root disk lies."""
        devices = cast("list[dict[str, Any]]", await self._execute("query-block"))
        return next(str(d["inserted"]["node-name"]) for d in devices if "inserted" in d)

    async def grow_disk(self, size_b: int) -> None:
        """Make the overlay larger; the guest is told by an interrupt. What lies beyond the layers below reads as zeros."""
        await self._end_merge()  # it blocks this
        await self._execute("block_resize", {"node-name": await self.overlay(), "size": size_b})

    async def merge_layers(self) -> None:
        """Stream the layers below into the overlay; QEMU drops them then."""
        try:
            await self._end_merge()  # a former agent's
            await self._merge()
        finally:
            await asyncio.shield(self._end_merge())

    async def _merge(self) -> None:
        arguments: dict[str, object] = {
            "job-id": _MERGE,
            "device": await self.overlay(),
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
        """No merge is under way afterwards; one query if there was none."""
        try:
            async with asyncio.timeout(_MERGE_END_TIMEOUT_S):
                while (job := await self._merge_job()) is not None:
                    # A job that ended between the look and the command refuses it.
                    with contextlib.suppress(QmpError):
                        await self._execute(
                            "job-dismiss" if job["status"] == "concluded" else "job-cancel", {"id": _MERGE}
                        )
                    await asyncio.sleep(_MAPPING_POLL_S)
        except TimeoutError as error:
            raise AgentFailure("The VMM does not stop merging the layers of the disk.") from error

    async def console(self) -> str:
        """The end of the serial console."""
        with contextlib.suppress(FileNotFoundError):
            text = (self._handle.directory / _CONSOLE_NAME).read_text(errors="replace")
            return text[-command_line.CONSOLE_LIMIT_B :]
        if not self._handle.process.is_alive():
            return ""
        arguments: dict[str, object] = {
            "device": "console",
            "size": command_line.CONSOLE_LIMIT_B,
            "format": "utf8",
        }
        return str(await self._execute("ringbuf-read", arguments))

    async def look_after(self, *, may_go_on: bool) -> bool:
        """Let it run on if it stopped on a full disk, or if a verb could not; keep its log short."""
        log = self._handle.directory / _LOG_NAME
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > _LOG_LIMIT_B:
                os.truncate(log, 0)  # QEMU appends
        if not may_go_on or await self._status() not in ("io-error", "paused"):
            return False
        await self._execute("cont")
        return True

    def disconnect(self) -> None:
        """Close the control connection; QEMU runs on."""
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None

    async def kill(self) -> None:
        """End QEMU and wait until it is gone."""
        self.disconnect()
        await kill_and_wait(self._handle.process, timeout_s=_KILL_TIMEOUT_S)

    async def wait_exit(self) -> None:
        """Return when QEMU has ended."""
        ended_with = await self._handle.process.wait_exit()
        self.disconnect()
        if ended_with == -signal.SIGSYS:
            # No QEMU of ours makes such a call: its guest may have taken it over. The kernel's log names the call.
            fields = {"vm": self._handle.directory.name, "pid": self._handle.process.pid}
            _log.warning("VMM ended for a forbidden system call", extra=fields)


class QemuDriver:
    """See `wrenn.vm.driver.VmDriver`."""

    def __init__(self, *, accelerator: str, version: str) -> None:
        self._accelerator = accelerator
        self._version = version
        self._root: PrivateRoot | None = None
        self._preparing = asyncio.Lock()

    async def prepare(self) -> None:
        """Make the root file system of all VMs of this driver, if it is not made yet.

        It holds the QEMU that is installed now, even after an upgrade: `vmm` stays true until the agent restarts.

        Raises:
            CommandError: QEMU or something that it needs is not installed.
        """
        async with self._preparing:
            if self._root is None:
                self._root = await build_root(self._accelerator)

    def close(self) -> None:
        """Let go of the root file system of new VMs; VMs run on."""
        if self._root is not None:
            self._root.close()
            self._root = None

    @property
    def vmm(self) -> str:
        """Name and version."""
        return f"qemu {self._version}"

    @property
    def accelerator(self) -> str:
        """`kvm` or `tcg`."""
        return self._accelerator

    @property
    def machine(self) -> str:
        """Machine type, CPU model, devices."""
        return command_line.machine_text(self._accelerator)

    async def boot(self, request: BootRequest) -> Vm:
        """Start a cold boot."""
        # QEMU opens the memory file anew through /proc/self/fd, as its own user.
        os.chown(request.memory, request.confinement.uid, request.confinement.uid)
        await self.prepare()
        with _Opened() as opened:
            memory = opened.open(request.memory, os.O_RDWR)
            kernel = opened.copy(request.kernel)
            initramfs = opened.copy(request.initramfs)
            return await self._start(
                request.directory,
                request.shape,
                request.confinement,
                Descriptors(
                    qmp_listener=opened.listen(request.directory / _SOCKET_NAME),
                    tap=request.tap_fd,
                    memory=memory,
                    disk_layers=opened.open_layers(request.disk),
                    overlay=request.disk.overlay.stem,
                    kernel=kernel,
                    initramfs=initramfs,
                    console=opened.open(
                        request.directory / _CONSOLE_NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                    ),
                ),
                opened,
                kernel_args=request.kernel_args,
            )

    async def restore(self, request: RestoreRequest) -> Vm:
        """Start a restore; with `fill` the device state waits in a pipe until the memory is what it belongs to."""
        await self.prepare()
        if request.fill is None:
            with _Opened() as opened:
                return await self._start_restore(request, opened, opened.open(request.state, os.O_RDONLY))
        content = request.state.read_bytes()
        with contextlib.ExitStack() as until_filled:
            with _Opened() as opened:
                state, feed = opened.pipe()
                until_filled.callback(os.close, feed)
                vm = await self._start_restore(request, opened, state)
            filling = threads.start(_fill, vm, request.fill, content, feed)
            try:
                async with asyncio.timeout(_FILL_TIMEOUT_S):
                    await asyncio.shield(filling)
            except BaseException as error:
                try:
                    await vm.kill()  # whatever the thread waits for ends with it
                finally:
                    await threads.wait_ended(filling)
                if isinstance(error, TimeoutError):
                    raise AgentFailure(
                        "The virtual machine was not filled in time.", context={"log": vm.log_tail()}
                    ) from error
                raise
        return vm

    async def _start_restore(self, request: RestoreRequest, opened: _Opened, state: int) -> QemuVm:
        return await self._start(
            request.directory,
            request.shape,
            request.confinement,
            Descriptors(
                qmp_listener=opened.listen(request.directory / _SOCKET_NAME),
                tap=request.tap_fd,
                memory=request.memory_fd,
                disk_layers=opened.open_layers(request.disk),
                overlay=request.disk.overlay.stem,
                state=state,
            ),
            opened,
        )

    async def _start(
        self,
        directory: Path,
        shape: Shape,
        confinement: Confinement,
        fds: Descriptors,
        opened: _Opened,
        *,
        kernel_args: str = "",
    ) -> QemuVm:
        assert self._root is not None, "a VM is started before the driver is prepared"
        argv = command_line.build(
            accelerator=self._accelerator, shape=shape, fds=fds, kernel_args=kernel_args
        )
        group = kvm_group() if self._accelerator == "kvm" else None
        spawning = partial(
            spawn_confined,
            argv,
            root=self._root,
            confinement=confinement if group is None else replace(confinement, groups=(group,)),
            pass_fds=(*opened.fds, fds.tap, fds.memory),
            log=directory / _LOG_NAME,
        )
        process = await threads.run_to_end(spawning, drop=_discard)
        return QemuVm(VmHandle(process, directory))

    async def adopt(self, handle: VmHandle) -> Vm | None:
        """The VM of a former agent, or None when it has ended."""
        # A VMM that is slow to answer, or stopped on a full disk, has not ended: only its process says that.
        return QemuVm(handle) if handle.process.is_alive() else None


def _discard(process: ProcessRef) -> None:
    """End a VMM that has only begun, and that nobody waits for any more."""
    process.kill()
    os.waitpid(process.pid, 0)


def _mapping(process: ProcessRef) -> ProcessMemory | None:
    with contextlib.suppress(OSError):
        memory = find_mapping(process.pid, _MEMORY_NAME)
        return memory if process.is_alive() else None
    return None


def _fill(vm: QemuVm, fill: Callable[[ProcessMemory], None], state: bytes, feed: int) -> None:
    """Wait for the VM's memory, fill it, then let it load its state. Blocking; in a thread."""
    process = vm.handle.process
    deadline = time.monotonic() + _MAPPING_TIMEOUT_S
    while (memory := _mapping(process)) is None:
        if not process.is_alive() or time.monotonic() > deadline:
            raise AgentFailure("The virtual machine did not start.", context={"log": vm.log_tail()})
        time.sleep(_MAPPING_POLL_S)
    fill(memory)
    try:
        with open(feed, "wb", closefd=False) as pipe:
            pipe.write(state)
    except BrokenPipeError as error:
        raise AgentFailure("The virtual machine did not start.", context={"log": vm.log_tail()}) from error


class _Opened:
    """Descriptors that are open only until the VMM has inherited them."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.fds: list[int] = []

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _keep(self, fd: int) -> int:
        self._stack.callback(os.close, fd)
        self.fds.append(fd)
        return fd

    def open(self, path: Path, flags: int) -> int:
        return self._keep(os.open(path, flags | os.O_CLOEXEC, 0o600))

    def pipe(self) -> tuple[int, int]:
        """A pipe: the end that the VMM inherits, and ours, which the caller closes."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        return self._keep(reader), writer

    def copy(self, path: Path) -> int:
        """A copy in memory of a file that only root may read: QEMU opens it by name, as its own user."""
        return self._keep(sealed_copy(path, name=path.name, on_data=lambda _offset, _data: None))

    def open_layers(self, disk: Disk) -> tuple[int, ...]:
        below = [self.open(path, os.O_RDONLY) for path in (*disk.frozen, disk.image)]
        return (self.open(disk.overlay, os.O_RDWR), *below)

    def listen(self, path: Path) -> int:
        """A listening socket made by us: root alone may connect, whoever the VMM is."""
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(4)
        except BaseException:
            listener.close()
            raise
        return self._keep(listener.detach())
