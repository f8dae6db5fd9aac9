"""The host machine: a virtual machine under emulation, whose own KVM works because QEMU emulates AMD's SVM.

Its state can be saved when everything that all tests need is up, and is restored from there in a second or two.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.kvm.images import HostImages
from tests.kvm.wire import PORT, Call, Reply, decode, encode, receive, send
from wrenn.testing.server import free_port
from wrenn.vm.qemu.qmp import Qmp

MEMORY_MB: Final = 3072
BOOT_TIMEOUT_S: Final = 180.0
_RESTORE_TIMEOUT_S: Final = 60.0
_CALL_TIMEOUT_S: Final = 120.0
_PING_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.2
_MEMORY, _STATE = "memory", "state"
_DISKS: Final = ("root", "data")
# Firecracker needs XSAVE of KVM, so it is kept here, other than in sandboxes under emulation. With two CPUs, QEMU 7.2 has hung
# now and then, so there is one.
_MACHINE: Final = "q35,usb=off,smbus=off,sata=off,vmport=off,suppress-vmdesc=on,memory-backend=ram"
_CPU: Final = "max,-erms,-fsrm,-avx,-avx2"
# Otherwise the kernel sometimes chooses a timer that costs an exit for each reading.
_KERNEL_ARGUMENTS: Final = "console=ttyS0 panic=-1 quiet tsc=reliable clocksource=tsc no_timer_check mitigations=off random.trust_cpu=on net.ifnames=0"


@dataclass
class HostMachine:
    """A running host machine; its files are in `folder`."""

    folder: Path
    process: subprocess.Popen[bytes]
    port: int

    @property
    def console(self) -> Path:
        """Everything that its kernel and its server wrote."""
        return self.folder / "console.log"

    async def call(self, method: str, *args: Any, timeout_s: float = _CALL_TIMEOUT_S, **kwargs: Any) -> Any:
        """Call a method of the server inside (`inside.py`); its errors come through."""
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                await send(writer, Call(method, args, kwargs))
                reply: Reply = await receive(reader)
            finally:
                writer.close()
        if reply.error is not None:
            raise reply.error
        return reply.value

    async def shell(self, script: str, *, timeout_s: float = _CALL_TIMEOUT_S) -> str:
        """Run a script that must succeed; returns what it wrote."""
        code, output = await self.call("shell", script, timeout_s=timeout_s)
        assert code == 0, output
        return output

    async def wait_answers(self, timeout_s: float) -> None:
        """Return when the server inside answers."""
        end = time.monotonic() + timeout_s
        while True:
            try:
                await self.call("ping", timeout_s=_PING_TIMEOUT_S)
                return
            except (OSError, EOFError, TimeoutError):
                assert self.process.poll() is None, f"the host machine has ended: {self.console_tail()}"
                assert time.monotonic() < end, f"the host machine does not answer: {self.console_tail()}"
                await asyncio.sleep(_POLL_S)

    def shell_now(self, script: str) -> str:
        """Run a script from outside of the event loop, for a report; returns what it wrote, or why there is nothing."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=_PING_TIMEOUT_S) as connection:
                connection.settimeout(_PING_TIMEOUT_S)
                connection.sendall(encode(Call("shell", (script,))))
                with connection.makefile("rb") as answer:
                    return decode(answer.read()).value[1]
        except Exception as error:  # noqa: BLE001 - a report of a failure must not fail itself
            return repr(error)

    async def save(self) -> None:
        """Save memory, devices and disks in the machine's folder, and end the machine."""
        qmp = await Qmp.connect(self.folder / "qmp")
        await qmp.execute("stop")
        await qmp.execute(
            "xen-save-devices-state", {"filename": str(self.folder / _STATE), "live": False}, timeout_s=60
        )
        with contextlib.suppress(Exception):  # it may end before it has answered
            await qmp.execute("quit")
        qmp.close()
        await asyncio.to_thread(self.process.wait, 30)
        self.console.unlink()

    def console_tail(self, size_b: int = 4000) -> str:
        """The end of the console."""
        with contextlib.suppress(OSError):
            return self.console.read_bytes()[-size_b:].decode(errors="replace")
        return ""

    def kill(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()


async def boot(folder: Path, images: HostImages, sources: Path) -> HostMachine:
    """Start one from its kernel; returns when the server inside answers. Its memory is a file, to be saved."""
    memory = f"{folder / _MEMORY},share=on"
    arguments = [
        "-kernel", str(images.kernel), "-initrd", str(images.initramfs), "-append", _KERNEL_ARGUMENTS,
    ]  # fmt: skip
    machine = await _start(
        folder, {"root": images.root, "data": images.data}, "raw", sources, memory, arguments
    )
    try:
        await machine.wait_answers(BOOT_TIMEOUT_S)
    except BaseException:
        machine.kill()
        raise
    return machine


async def restore(folder: Path, saved: Path, sources: Path) -> HostMachine:
    """Start one from what `save` wrote, which is not changed."""
    below = {disk: saved / f"{disk}.qcow2" for disk in _DISKS}
    with (saved / _STATE).open("rb") as state:
        arguments = ["-incoming", f"fd:{state.fileno()}"]
        memory = f"{saved / _MEMORY},share=off"
        machine = await _start(folder, below, "qcow2", sources, memory, arguments, pass_fds=(state.fileno(),))
    try:
        await machine.wait_answers(_RESTORE_TIMEOUT_S)
        await machine.call("set_clock", time.time())
    except BaseException:
        machine.kill()
        raise
    return machine


async def _start(
    folder: Path, below: dict[str, Path], kind: str, sources: Path, memory: str, arguments: Sequence[str],
    *, pass_fds: tuple[int, ...] = (),
) -> HostMachine:  # fmt: skip
    drives: list[str] = []
    for number, (disk, path) in enumerate([*below.items(), ("sources", sources)]):
        if disk == "sources":
            drive = f"file={path},if=none,id={disk},format=raw,readonly=on"
        else:
            overlay = folder / f"{disk}.qcow2"
            subprocess.run(
                ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(path), "-F", kind, str(overlay)],
                check=True,
                timeout=30,
            )
            drive = f"file={overlay},if=none,id={disk},format=qcow2,cache=unsafe,discard=unmap"
        drives += ["-drive", drive, "-device", f"virtio-blk-pci,drive={disk},addr=0x{4 + number:x}"]
    port = free_port()
    argv = [
        # Whatever becomes of the tests, it ends with them.
        "setpriv", "--pdeathsig", "KILL",
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", _MACHINE,
        "-global", "migration.send-configuration=off",
        "-accel", "tcg,thread=multi,tb-size=512", "-cpu", _CPU, "-smp", "1", "-m", str(MEMORY_MB),
        "-object", f"memory-backend-file,id=ram,size={MEMORY_MB}M,mem-path={memory}",
        "-qmp", f"unix:{folder / 'qmp'},server=on,wait=off",
        "-serial", f"file:{folder / 'console.log'}",
        "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:{PORT}",
        "-device", "virtio-net-pci,netdev=net,romfile=,addr=0x3",
        *drives,
        *arguments,
    ]  # fmt: skip
    with (folder / "qemu.log").open("wb") as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=pass_fds, cwd=os.sep
        )
    return HostMachine(folder, process, port)
