"""Start, save and end QEMU VMs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

from wrenn.base.errors import AgentFailure
from wrenn.linux.memfd import sealed_copy
from wrenn.linux.process import kill_and_wait
from wrenn.linux.spawn import Confinement, spawn_confined
from wrenn.vm.driver import BootRequest, Disk, RestoreRequest, Shape, Vm, VmHandle
from wrenn.vm.qemu import command_line
from wrenn.vm.qemu.command_line import Descriptors
from wrenn.vm.qemu.probe import kvm_group
from wrenn.vm.qemu.qmp import Qmp, QmpError

_SOCKET_NAME: Final = "qmp.sock"
_LOG_NAME: Final = "vmm.log"
_CONSOLE_NAME: Final = "console.log"
_KILL_TIMEOUT_S: Final = 10.0
_LOG_TAIL_B: Final = 2000
_LOG_LIMIT_B: Final = 1024 * 1024
"""A hostile guest can make QEMU complain without end."""
_LOAD_POLL_S: Final = 0.002
"""The event at the end of a load is lost to a monitor that connects after it, so the status is asked for."""
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

    async def wait_running(self, *, timeout_s: float) -> None:
        """Return when the vCPUs run; see `Vm.wait_running`."""
        try:
            async with asyncio.timeout(timeout_s):
                while (status := await self._status()) == "inmigrate":  # noqa: ASYNC110 - see _LOAD_POLL_S
                    await asyncio.sleep(_LOAD_POLL_S)
        except (QmpError, TimeoutError) as error:
            raise AgentFailure(
                "The virtual machine did not start.", context={"log": self.log_tail()}
            ) from error
        if status != "running":
            raise AgentFailure(
                "The virtual machine did not start.", context={"status": status, "log": self.log_tail()}
            )

    def log_tail(self) -> str:
        """The end of QEMU's own messages."""
        with contextlib.suppress(OSError), (self._handle.directory / _LOG_NAME).open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _LOG_TAIL_B))
            return log.read(_LOG_TAIL_B).decode(errors="replace")
        return ""

    async def freeze(self) -> None:
        """Stop the vCPUs; QEMU flushes the disks as part of it."""
        await self._execute("stop")

    async def save_state(self, path: Path) -> None:
        """Write the device state of the frozen VM to the new file `path`."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            await self._execute("add-fd", {"fdset-id": _STATE_FDSET}, fds=(fd,))
            await self._execute("xen-save-devices-state", {"filename": f"/dev/fdset/{_STATE_FDSET}"})
            await self._execute("remove-fd", {"fdset-id": _STATE_FDSET})
        finally:
            os.close(fd)

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

    async def look_after(self) -> bool:
        """Let it run on if it stopped on a full disk; keep its log short."""
        log = self._handle.directory / _LOG_NAME
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > _LOG_LIMIT_B:
                os.truncate(log, 0)  # QEMU appends
        stalled = await self._status() == "io-error"
        if stalled:
            await self._execute("cont")
        return stalled

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
        await self._handle.process.wait_exit()


class QemuDriver:
    """See `wrenn.vm.driver.VmDriver`."""

    def __init__(self, *, accelerator: str, version: str) -> None:
        self._accelerator = accelerator
        self._version = version

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
        with _Opened() as opened:
            memory = opened.open(request.memory, os.O_RDWR)
            kernel = opened.copy(request.kernel)
            initramfs = opened.copy(request.initramfs)
            return self._start(
                request.directory,
                request.shape,
                request.confinement,
                Descriptors(
                    qmp_listener=opened.listen(request.directory / _SOCKET_NAME),
                    tap=request.tap_fd,
                    memory=memory,
                    disk_layers=opened.open_layers(request.disk),
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
        """Start a restore."""
        with _Opened() as opened:
            return self._start(
                request.directory,
                request.shape,
                request.confinement,
                Descriptors(
                    qmp_listener=opened.listen(request.directory / _SOCKET_NAME),
                    tap=request.tap_fd,
                    memory=request.memory_fd,
                    disk_layers=opened.open_layers(request.disk),
                    state=opened.open(request.state, os.O_RDONLY),
                ),
                opened,
            )

    def _start(
        self,
        directory: Path,
        shape: Shape,
        confinement: Confinement,
        fds: Descriptors,
        opened: _Opened,
        *,
        kernel_args: str = "",
    ) -> Vm:
        argv = command_line.build(
            accelerator=self._accelerator, shape=shape, fds=fds, kernel_args=kernel_args
        )
        group = kvm_group() if self._accelerator == "kvm" else None
        process = spawn_confined(
            argv,
            confinement=confinement if group is None else replace(confinement, groups=(group,)),
            pass_fds=(*opened.fds, fds.tap, fds.memory),
            log=directory / _LOG_NAME,
        )
        return QemuVm(VmHandle(process, directory))

    async def adopt(self, handle: VmHandle) -> Vm | None:
        """The VM of a former agent, or None when it has ended."""
        # A VMM that is slow to answer, or stopped on a full disk, has not ended: only its process says that.
        return QemuVm(handle) if handle.process.is_alive() else None


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
