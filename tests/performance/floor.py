"""The floors: what is left when everything of ours but the guest agent is taken away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.performance.inside import slot_of
from tests.vm.platform import Platform
from wrenn.agent.guest_tokens import Tokens
from wrenn.guest import GuestConnection
from wrenn.linux.files import copy_file
from wrenn.linux.memfd import sealed_copy
from wrenn.network import Slots, find_block
from wrenn.storage.images import load_images
from wrenn.vm import Shape
from wrenn.vm.qemu import command_line
from wrenn.vm.qemu.bases import QemuBase
from wrenn.vm.qemu.command_line import Descriptors

HEALTH = b"GET /health HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n"


async def wait_health(address: str) -> None:
    """Until the guest agent answers /health."""
    while True:
        try:
            async with asyncio.timeout(0.03):
                reader, writer = await asyncio.open_connection(address, 49983)
        except (OSError, TimeoutError):
            await asyncio.sleep(0.002)
            continue
        writer.write(HEALTH)
        answer = await reader.read(64)
        writer.close()
        if answer.startswith(b"HTTP/1.1 20"):
            return


@asynccontextmanager
async def bare_restore(platform: Platform, shape: Shape) -> AsyncGenerator[BareRestore]:
    """QEMU alone on the platform's own base: no agent, no confinement, network and memory prepared."""
    base = _base_of(platform, shape)
    block = find_block(platform.data_dir)
    assert block is not None
    slots = Slots(block, vmm_uid=0, vmm_gid=0, ready_target=0)
    slot = await slots.acquire("floor")
    tap = slot.open_tap()
    memory = sealed_copy(base.memory, name="floor", on_data=lambda _offset, _data: None)
    try:
        yield BareRestore(base, load_images(platform.images_dir).rootfs, shape, slot.address, tap, memory)
    finally:
        os.close(memory)
        os.close(tap)
        # Not closed: the last thing that a pool takes away is the firewall, and that is the agent's here.
        await slots.remove(slot.index, "floor")


class BareRestore:
    """Restores the base again and again."""

    def __init__(
        self, base: QemuBase, image: Path, shape: Shape, address: str, tap: int, memory: int
    ) -> None:
        self._base = base
        self._image = image
        self._shape = shape
        self._address = address
        self._tap = tap
        self._memory = memory

    async def once_ms(self) -> float:
        """From the start of QEMU until the guest agent answers, in ms."""
        overlay = self._base.directory.parent.parent / "floor.qcow2"
        copy_file(self._base.empty_disk, overlay)
        layers = [
            os.open(overlay, os.O_RDWR),
            os.open(self._base.disk, os.O_RDONLY),
            os.open(self._image, os.O_RDONLY),
        ]
        state = os.open(self._base.state, os.O_RDONLY)
        monitor = os.open("/dev/null", os.O_RDWR)
        fds = Descriptors(
            qmp_listener=monitor, tap=self._tap, memory=self._memory, disk_layers=tuple(layers), state=state
        )
        argv = _without_monitor(
            command_line.build(accelerator=_accelerator(self._base), shape=self._shape, fds=fds)
        )
        started = time.perf_counter()
        process = subprocess.Popen(argv, pass_fds=[*layers, state, self._tap, self._memory])
        try:
            await wait_health(self._address)
            return (time.perf_counter() - started) * 1000
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
            for fd in (*layers, state, monitor):
                os.close(fd)
            overlay.unlink()


def _without_monitor(argv: list[str]) -> list[str]:
    """The same machine without its control socket, which the floor has no use for."""
    monitor = next(i for i, word in enumerate(argv) if word.startswith("socket,id=qmp"))
    return argv[: monitor - 1] + argv[monitor + 3 :]


def _accelerator(base: QemuBase) -> str:
    import json

    return str(json.loads((base.directory / "manifest.json").read_text())["facts"]["accelerator"])


def _base_of(platform: Platform, shape: Shape) -> QemuBase:
    import json

    for directory in (platform.data_dir / "bases").iterdir():
        facts = json.loads((directory / "manifest.json").read_text())["facts"]
        if (facts["vcpus"], facts["memory_mb"]) == (shape.vcpus, shape.memory_mb):
            return QemuBase(directory.name, directory)
    raise AssertionError("create a sandbox of this shape first")


@asynccontextmanager
async def straight_to_guest(platform: Platform, sandbox_id: str) -> AsyncGenerator[GuestConnection]:
    """A connection to a sandbox's guest agent, past control plane and agent."""
    block = find_block(platform.data_dir)
    assert block is not None
    token = Tokens.load(platform.data_dir / "agent.key").of(sandbox_id)
    guest = GuestConnection(str(block.address(slot_of(platform.data_dir, sandbox_id))), token)
    with contextlib.suppress(asyncio.CancelledError):
        try:
            yield guest
        finally:
            await guest.close()
