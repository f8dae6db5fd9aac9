"""Disks on device-mapper, in the host machine: each function here is a test that `test_disks.py` calls by its name.

A disk is 8 MiB, so a test takes parts of a second. What a killed agent leaves is made by this module as a program, with a fault armed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from wrenn.agent.doctor.leftovers import Leftover, list_everything, remove_leftover
from wrenn.agent.layout import Layout
from wrenn.base.errors import AgentFailure, StorageFull
from wrenn.base.faults import FaultInjected, arm_faults
from wrenn.base.units import MIB
from wrenn.linux import allocation, device_mapper, loop
from wrenn.linux.disk_space import free_b
from wrenn.linux.spawn import Confinement
from wrenn.network import Block
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.layers import new_layer_id
from wrenn.vm.disks import DiskRef
from wrenn.vm.driver import FlattenRequest
from wrenn.vm.firecracker import cow_file, cow_space
from wrenn.vm.firecracker.device_stack import DeviceStack
from wrenn.vm.firecracker.disks import DmDisks, detach_disk, list_attached
from wrenn.vm.firecracker.flatten import flatten
from wrenn.vm.firecracker.space_allocator import SpaceAllocator

_PREFIX = "wrenn-disks"
_ROOT = Path("/data/disks")
_IMAGE_B = 8 * MIB
_PIECE_B = 64 * 1024
_BASE = "base"
_ONE, _TWO = b"\1" * _PIECE_B, b"\2" * _PIECE_B


@dataclass(frozen=True)
class _OneBase:
    """Implements `BaseFiles`."""

    folder: Path

    def image(self, key: str) -> Path:
        assert key == _BASE
        return self.folder / "rootfs.ext4"

    def written(self, key: str) -> Path:
        assert key == _BASE
        return self.folder / "disk.cow"


def _disks() -> DmDisks:
    return DmDisks(_ROOT / "layers", _OneBase(_ROOT), prefix=_PREFIX)


@contextmanager
def _folder() -> Generator[DmDisks]:
    """A folder with a base; afterwards there are no devices on it."""
    (_ROOT / "layers").mkdir(parents=True)
    try:
        (_ROOT / "rootfs.ext4").write_bytes(b"image" + b"\7" * (_IMAGE_B - 5))
        cow_file.create(_ROOT / "disk.cow", size_b=_IMAGE_B)
        yield _disks()
        assert left_over() == ([], []), "devices are left over"
    finally:
        for prefix in (f"{_PREFIX}.", f"{_PREFIX}-other."):
            while names := device_mapper.list_names(prefix):
                for name in names:
                    status = device_mapper.status(name)
                    if status is not None and status.open_count == 0:
                        device_mapper.remove(name, timeout_s=1)
        shutil.rmtree(_ROOT)


def left_over() -> tuple[list[str], list[str]]:
    """Devices of these tests, and files that loop devices have."""
    files = [file for file in loop.files_of_devices().values() if file.startswith(str(_ROOT))]
    return sorted(device_mapper.list_names(_PREFIX)), sorted(files)


def _devices(machine: str) -> list[str]:
    """The devices of a machine's layers, without those below written ones."""
    return [name for name in device_mapper.list_names(f"{_PREFIX}.{machine}.") if "+" not in name]


async def _new(disks: DmDisks, below: tuple[str, ...] = (), *, size_b: int = _IMAGE_B) -> tuple[str, ...]:
    layer = new_layer_id()
    await disks.create(layer, DiskRef(below, _BASE), size_b=size_b)
    return (layer, *below)


def _write(disk: DeviceStack, content: bytes, offset: int, *, sync: bool = False) -> None:
    fd = os.open(disk.path, os.O_RDWR)
    try:
        os.pwrite(fd, content, offset)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _read(disk: DeviceStack, offset: int, size_b: int = _PIECE_B) -> bytes:
    fd = os.open(disk.path, os.O_RDONLY)
    try:
        # Not what the page cache has, but what the layers have.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.pread(fd, size_b, offset)
    finally:
        os.close(fd)


async def layers_show_what_lies_below_and_leave_it_as_it_is() -> None:
    with _folder() as disks:
        first = await _new(disks)
        disk = await disks.attach("one", DiskRef(first, _BASE))
        assert disk.size_b == _IMAGE_B
        assert _read(disk, 0, 5) == b"image"
        _write(disk, _ONE, MIB)
        await disk.detach()
        seal = disks.seal(first[0])
        second = await _new(disks, first)
        disk = await disks.attach("two", DiskRef(second, _BASE))
        assert await disk.written_layer() == second[0]
        _write(disk, _TWO, MIB)
        _write(disk, _TWO, 2 * MIB)
        assert _read(disk, MIB) == _read(disk, 2 * MIB) == _TWO
        # Another machine on the first one, at the same time, and one whose layer begins as a copy.
        third = await _new(disks, first)
        other = await disks.attach("three", DiskRef(third, _BASE))
        assert _read(other, MIB) == _ONE
        assert _read(other, 2 * MIB) == b"\7" * _PIECE_B
        copy = new_layer_id()
        await disks.create(copy, DiskRef((), _BASE), size_b=_IMAGE_B, copy_of=first[0])
        copied = await disks.attach("four", DiskRef((copy,), _BASE))
        await disks.remove(third[0])
        assert _read(copied, MIB) == _ONE
        images = [file for file in left_over()[1] if file.endswith("rootfs.ext4")]
        assert len(images) == 1, "machines share the device of their image"
        disks.check(seal)
        for each in (disk, other, copied):
            assert await each.is_whole()
            await each.detach()


async def a_disk_that_is_written_whole_is_not_full() -> None:
    """The kernel makes a snapshot unusable when its file is full."""
    with _folder() as disks:
        for size_b in (_IMAGE_B, _IMAGE_B + 37 * cow_file.CHUNK_B):
            layers = await _new(disks, size_b=size_b)
            disk = await disks.attach("one", DiskRef(layers, _BASE))
            assert disk.size_b == size_b
            _write(disk, os.urandom(size_b), 0, sync=True)
            with pytest.raises(OSError, match="No space left"):
                _write(disk, b"beyond", size_b)
            assert await disk.is_whole()
            await disk.detach()
            content = cow_file.inspect(disks.path(layers[0]))
            assert len(content.chunks) == size_b // cow_file.CHUNK_B
            disk = await disks.attach("one", DiskRef(await _new(disks, layers, size_b=size_b), _BASE))
            assert _read(disk, size_b - 4, 4) != b"\0\0\0\0"
            await disk.detach()


async def a_switch_of_layers_freezes_what_was_written() -> None:
    with _folder() as disks:
        first = await _new(disks)
        disk = await disks.attach("one", DiskRef(first, _BASE))
        number = disk.number
        vmm = os.open(disk.path, os.O_RDWR)
        try:
            os.pwrite(vmm, _ONE, MIB)  # is in the page cache of the device
            second = await _new(disks, first)
            await disk.switch_layer(second[0])
            assert await disk.written_layer() == second[0]
            seal = disks.seal(first[0])
            os.pwrite(vmm, _TWO, MIB)
            await disk.flush()
            assert os.pread(vmm, _PIECE_B, MIB) == _TWO
        finally:
            os.close(vmm)
        assert disk.number == number
        disks.check(seal)
        await disk.detach()
        disk = await disks.attach("one", DiskRef(await _new(disks, first), _BASE))
        assert _read(disk, MIB) == _ONE
        # A layer that is not there: nothing has changed.
        with pytest.raises(FileNotFoundError):
            await disk.switch_layer(new_layer_id())
        assert await disk.written_layer() not in (first[0], second[0])
        _write(disk, _TWO, MIB, sync=True)
        await disk.detach()


async def a_flattened_disk_has_the_content_of_its_device() -> None:
    with _folder() as disks:
        layers: tuple[str, ...] = ()
        for number in range(3):
            layers = await _new(disks, layers, size_b=_IMAGE_B + MIB)
            disk = await disks.attach("one", DiskRef(layers, _BASE))
            _write(disk, os.urandom(_PIECE_B), number * 32 * 1024)
            _write(disk, os.urandom(_PIECE_B), _IMAGE_B + number * 4096)
            await disk.detach()
        disk = await disks.attach("one", DiskRef(await _new(disks, layers, size_b=_IMAGE_B + MIB), _BASE))
        content = _read(disk, 0, disk.size_b)
        await disk.detach()
        progress: list[tuple[int, int]] = []
        image = _ROOT / "flat"
        await flatten(
            disks,
            FlattenRequest(
                DiskRef(layers, _BASE),
                _IMAGE_B + MIB,
                image,
                Confinement(uid=0, cgroup_procs=()),
                lambda done, total: progress.append((done, total)),
            ),
        )
        assert image.read_bytes() == content
        assert progress[-1][0] == progress[-1][1] > 0


async def a_disk_grows_while_it_is_used() -> None:
    with _folder() as disks:
        layers = await _new(disks)
        disk = await disks.attach("one", DiskRef(layers, _BASE))
        _write(disk, _ONE, 0)
        vmm = os.open(disk.path, os.O_RDWR)
        try:
            for _ in range(2):
                await disk.grow(3 * _IMAGE_B, nullcontext)
                assert disk.size_b == disks.size_b(layers[0]) == 3 * _IMAGE_B
            assert os.pread(vmm, 1, 3 * _IMAGE_B - 1) == b"\0"
            os.pwrite(vmm, os.urandom(3 * _IMAGE_B), 0)
            os.fsync(vmm)
        finally:
            os.close(vmm)
        assert await disk.is_whole()
        await disk.grow(_IMAGE_B, nullcontext)
        assert disk.size_b == 3 * _IMAGE_B
        await disk.detach()


async def layers_are_merged_while_the_disk_is_used() -> None:
    with _folder() as disks:
        layers: tuple[str, ...] = ()
        for number in range(3):
            layers = await _new(disks, layers)
            disk = await disks.attach("one", DiskRef(layers, _BASE))
            # Each is partly covered by the next one.
            _write(disk, os.urandom(_PIECE_B), number * _PIECE_B // 2)
            _write(disk, os.urandom(4096), 4 * MIB + number * 8192)
            await disk.detach()
        layers = await _new(disks, layers)
        disk = await disks.attach("one", DiskRef(layers, _BASE))
        vmm = os.open(disk.path, os.O_RDWR)
        try:
            os.pwrite(vmm, _ONE, 4096)
            before = os.pread(vmm, _IMAGE_B, 0)
            merging = asyncio.create_task(disk.merge_layers(nullcontext))
            await asyncio.sleep(0)
            os.pwrite(vmm, _TWO, 6 * MIB)
            await merging
            await disk.merge_layers(nullcontext)  # there is nothing left to do
            assert await disk.written_layer() == layers[0]
            assert len(_devices("one")) == 4
            await disk.grow(2 * _IMAGE_B, nullcontext)
            os.pwrite(vmm, _ONE, _IMAGE_B)
        finally:
            os.close(vmm)
        await disk.detach()
        for layer in layers[1:]:
            await disks.remove(layer)
        disk = await disks.attach("one", DiskRef(await _new(disks, layers[:1], size_b=2 * _IMAGE_B), _BASE))
        content = _read(disk, 0, _IMAGE_B + _PIECE_B)
        assert content[: 6 * MIB] == before[: 6 * MIB]
        assert content[6 * MIB : 6 * MIB + _PIECE_B] == _TWO
        assert content[_IMAGE_B:] == _ONE
        await disk.detach()
        assert sorted(path.suffix for path in disks.path("x").parent.iterdir()) == [".cow"] * 2


async def a_merge_that_is_cancelled_changes_nothing() -> None:
    with _folder() as disks:
        first = await _new(disks)
        disk = await disks.attach("one", DiskRef(first, _BASE))
        _write(disk, os.urandom(_IMAGE_B), 0)
        await disk.detach()
        layers = await _new(disks, first)
        disk = await disks.attach("one", DiskRef(layers, _BASE))
        before = _read(disk, 0, _IMAGE_B)
        for wait_s in (0, 0.05, 0.2):
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await disk.merge_layers(nullcontext)
            _write(disk, _ONE, 0, sync=True)
            assert _read(disk, 0, _IMAGE_B) == _ONE + before[_PIECE_B:]
        await disk.merge_layers(nullcontext)
        assert _read(disk, 0, _IMAGE_B) == _ONE + before[_PIECE_B:]
        await disk.detach()


async def a_boot_writes_over_its_image() -> None:
    with _folder() as disks:
        written = _ROOT / "draft.cow"
        disk = await disks.attach_boot("boot", image=_ROOT / "rootfs.ext4", written=written)
        _write(disk, _ONE, 0)
        node = _ROOT / "node"
        disk.make_node(node, uid=1234, gid=1235)
        state = node.stat()
        assert (state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)) == (1234, 1235, 0o600)
        assert state.st_rdev == disk.number
        node.unlink()
        await disk.detach()
        written.rename(_ROOT / "disk.cow")
        disk = await disks.attach("one", DiskRef(await _new(disks), _BASE))
        assert _read(disk, 0) == _ONE
        await disk.detach()
        assert (_ROOT / "rootfs.ext4").read_bytes()[:5] == b"image"


async def a_device_that_is_in_use_is_tried_again() -> None:
    with _folder() as disks:
        disk = await disks.attach("one", DiskRef(await _new(disks), _BASE))
        vmm = os.open(disk.path, os.O_RDWR)
        asyncio.get_running_loop().call_later(0.5, os.close, vmm)
        await disk.detach()
        await disk.detach()
        with pytest.raises(AgentFailure, match="not attached"):
            _ = disk.number


async def a_sweep_removes_what_nobody_uses_and_nothing_of_others() -> None:
    with _folder() as disks:
        others = DmDisks(_ROOT / "layers", _OneBase(_ROOT), prefix=f"{_PREFIX}-other")
        for name in ("kept", "used", "gone"):
            await disks.attach(name, DiskRef(await _new(disks), _BASE))
        foreign = await others.attach("gone", DiskRef(await _new(disks), _BASE))
        used = await disks.adopt("used")
        assert used is not None
        vmm = os.open(used.path, os.O_RDWR)
        try:
            await disks.sweep({"kept"})
        finally:
            os.close(vmm)
        assert disks.attached() == ["kept", "used"]
        assert foreign.number
        assert await disks.adopt("gone") is None
        await disks.sweep(())
        assert disks.attached() == []
        await foreign.detach()


async def the_doctor_finds_and_removes_the_devices_of_its_installation() -> None:
    layout, other = (Layout(_ROOT, Block(index)) for index in (14, 15))
    with _folder() as disks:
        for each in (layout, other):
            of_layout = DmDisks(_ROOT / "layers", _OneBase(_ROOT), prefix=each.cgroup_root)
            await of_layout.attach("cl-1", DiskRef(await _new(disks), _BASE))
        leftovers = [leftover for leftover in await list_everything(layout) if leftover.kind == "disk"]
        assert leftovers == [Leftover("disk", "cl-1", "cl-1")]
        await remove_leftover(layout, leftovers[0])
        assert list_attached(layout.cgroup_root) == []
        assert list_attached(other.cgroup_root) == ["cl-1"]
        await detach_disk(other.cgroup_root, "cl-1")


async def the_devices_of_some_machines_leave_nothing() -> None:
    await _come_and_go(machines=4, turns=2)


async def the_devices_of_many_machines_leave_nothing() -> None:
    await _come_and_go(machines=32, turns=3)


async def _come_and_go(*, machines: int, turns: int) -> None:
    with _folder() as disks:
        before = left_over()
        for _ in range(turns):
            layers = [await _new(disks) for _ in range(machines)]
            await asyncio.gather(
                *(disks.attach(f"m{i}", DiskRef(layer, _BASE)) for i, layer in enumerate(layers))
            )
            assert len(disks.attached()) == machines
            await asyncio.gather(*(disks.detach(f"m{i}") for i in range(machines)))
            for (layer,) in layers:
                await disks.remove(layer)
            assert left_over() == before


@contextmanager
def _small_file_system(size_b: int) -> Generator[Path]:
    """Layers lie on a file system of their own, of this size; yields a folder on it."""
    layers, image = _ROOT / "layers", _ROOT / "small"
    with image.open("wb") as file:
        file.truncate(size_b)
    # No journal, which would take a part of it.
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-O", "^has_journal", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(layers)], check=True)
    try:
        # Of so small a file system all may be taken.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(allocation, "_LEFT_B", 0)
            yield layers
    finally:
        subprocess.run(["umount", "-l", str(layers)], check=True)


def _fill(folder: Path, *, but_b: int = 0) -> Path:
    """Take all space there."""
    file = folder / "other"
    with file.open("wb") as other:
        os.posix_fallocate(other.fileno(), 0, max(1, free_b(folder) - but_b))
    return file


@contextmanager
def _writer(disk: DeviceStack, content: bytes) -> Generator[subprocess.Popen[bytes]]:
    """A VMM, which writes to its disk through the page cache and then lets the kernel write that."""
    script = f"import os, sys; fd = os.open({str(disk.path)!r}, os.O_RDWR); os.write(fd, sys.stdin.buffer.read()); os.fsync(fd)"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as vmm:
        try:
            assert vmm.stdin is not None
            vmm.stdin.write(content)
            vmm.stdin.close()
            yield vmm
        finally:
            if vmm.poll() is None:
                vmm.kill()
                cow_space.give_up(f"{_PREFIX}.")  # it could not end otherwise


@asynccontextmanager
async def _running(allocator: SpaceAllocator) -> AsyncGenerator[None]:
    """It takes space, and none any more afterwards: the next test has devices of the same names."""
    running = asyncio.create_task(allocator.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


async def _until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


_LARGE_B = 160 * MIB
"""A disk with more than what a layer has ahead at first."""


async def writes_wait_while_the_host_is_full_and_nothing_is_lost() -> None:
    content = os.urandom(48 * MIB)
    # Large enough for all that the layer may have ahead, and for the next one.
    with _folder() as disks, _small_file_system(256 * MIB) as host:
        layers = await _new(disks, size_b=_LARGE_B)
        disk = await disks.attach("one", DiskRef(layers, _BASE))
        other = _fill(host, but_b=8 * MIB)
        with _writer(disk, content) as vmm:
            async with _running(disks.space):
                await _until(lambda: disks.waits_for_space(layers[0]))
                assert free_b(host) < MIB, "all that was free was used"
                assert await disk.is_whole()
                assert vmm.poll() is None
                # An operation that writes what waits is refused, and the disk goes on waiting.
                with pytest.raises(StorageFull):
                    await disk.flush()
                with pytest.raises(StorageFull):
                    await disk.switch_layer((await _new(disks, layers, size_b=_LARGE_B))[0])
            # Agents come and go, also one that was killed.
            next_disks = _disks()
            adopted = await next_disks.adopt("one")
            assert adopted is not None
            assert await adopted.is_whole()
            other.unlink()
            async with _running(next_disks.space):
                await _until(lambda: vmm.poll() is not None, 60)
                assert vmm.returncode == 0
        assert await adopted.is_whole()
        assert not next_disks.waits_for_space(layers[0])
        assert _read(adopted, 0, len(content)) == content
        second = await _new(disks, layers, size_b=_LARGE_B)
        await adopted.switch_layer(second[0])
        await disks.remove(second[0])
        disks.seal(layers[0])
        assert disks.allocated_b(layers[0]) < len(content) + MIB, "a frozen layer has nothing ahead"
        await adopted.detach()
        disk = await disks.attach("two", DiskRef(await _new(disks, layers, size_b=_LARGE_B), _BASE))
        assert _read(disk, 0, len(content)) == content
        await disk.detach()


async def a_killed_vmm_whose_writes_wait_can_be_removed() -> None:
    with _folder() as disks, _small_file_system(64 * MIB) as host:
        layers = await _new(disks, size_b=_LARGE_B)
        disk = await disks.attach("one", DiskRef(layers, _BASE))
        _fill(host)
        async with _running(disks.space):
            with _writer(disk, os.urandom(32 * MIB)) as vmm:
                await _until(lambda: disks.waits_for_space(layers[0]))
                vmm.kill()
                await disks.give_up("one")
                await asyncio.to_thread(vmm.wait, 20)
            await disk.detach()


class _AgentKilled(BaseException):
    pass


@contextmanager
def _killed_at(step: int) -> Generator[list[int]]:
    """From the call of this number on, no device is changed any more; yields a list with the number of calls until then."""
    calls = [0]

    def stopping(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] > step:
                raise _AgentKilled
            return real(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("create", "load", "suspend", "resume", "remove"):
            patch.setattr(device_mapper, name, stopping(getattr(device_mapper, name)))
        yield calls


async def what_waits_goes_on_whichever_step_of_taking_space_an_agent_was_killed_at() -> None:
    content = os.urandom(3 * MIB)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cow_space, "FIRST_B", MIB)
        step, calls = -1, [0]
        while calls[0] > step:
            step += 1
            with _folder() as disks:
                calls = await _take_space_killed(disks, content, step)
        assert step > 9, "calls that change devices"


async def _take_space_killed(disks: DmDisks, content: bytes, step: int) -> list[int]:
    layers = await _new(disks)
    disk = await disks.attach("one", DiskRef(layers, _BASE))
    layer = f"{_PREFIX}.one.{layers[0]}"
    writing = asyncio.ensure_future(asyncio.to_thread(_write, disk, content, 0, sync=True))
    try:
        await _until(lambda: cow_space.used_b(layer) > cow_space.read(layer).open_b)
        with _killed_at(step) as calls:
            with suppress(_AgentKilled):
                cow_space.take(layer, 2 * MIB)
            # It ends, but for the step in which the store waits for the requests under way.
            await _until(
                lambda: (
                    calls[0] == step or not any(each.name == "own-thread" for each in threading.enumerate())
                )
            )
        assert not writing.done()
        assert await disks.adopt("one") is not None
        cow_space.take(layer, 2 * MIB)
        cow_space.take(layer, 3 * MIB)
        assert await disk.is_whole()
        cow_space.take(layer, 4 * _IMAGE_B)
        await asyncio.wait_for(writing, 20)
    finally:
        if not writing.done():
            cow_space.give_up(f"{_PREFIX}.")
    assert await disk.is_whole()
    assert _read(disk, 0, len(content)) == content
    await _until(lambda: len(_devices("one")) == 4 and not cow_space.read(layer).last)
    await disk.detach()
    return calls


async def the_reserve_of_the_host_is_not_taken() -> None:
    with _folder() as disks, _small_file_system(128 * MIB) as host:
        layers = await _new(disks, size_b=_LARGE_B)
        disk = await disks.attach("one", DiskRef(layers, _BASE))
        allocator = SpaceAllocator(prefix=f"{_PREFIX}.", folder=host, reserve_b=64 * MIB)
        async with _running(allocator):
            with _writer(disk, os.urandom(100 * MIB)) as vmm:
                await _until(lambda: bool(allocator.waiting))
                assert 64 * MIB <= free_b(host) < 66 * MIB
                vmm.kill()
                await disks.give_up("one")
                await asyncio.to_thread(vmm.wait, 20)
        await disk.detach()


async def a_disk_that_is_written_fast_and_grows_gets_its_space_in_time() -> None:
    content = os.urandom(40 * MIB)
    with _folder() as disks:
        layers = await _new(disks, size_b=64 * MIB)
        disk = await disks.attach("one", DiskRef(layers, _BASE))
        async with _running(disks.space):
            with _writer(disk, content) as writer:
                await _until(lambda: writer.poll() is not None, 60)
                assert writer.returncode == 0
            await disk.grow(_LARGE_B, nullcontext)
            vmm = os.open(disk.path, os.O_RDWR)
            try:
                for at in range(64 * MIB, _LARGE_B - 2 * len(content), len(content)):
                    os.pwrite(vmm, content, at)
                await disk.merge_layers(nullcontext)
                await asyncio.to_thread(os.fsync, vmm)
            finally:
                os.close(vmm)
            assert await disk.is_whole()
            # Image, base, layer, disk, store, and two for what waits, if the layer does not have all of its space: others are not needed
            # any more and removed.
            layer = f"{_PREFIX}.one.{layers[0]}"
            await _until(
                lambda: (
                    len(device_mapper.list_names(f"{_PREFIX}.one."))
                    == (7 if cow_space.read(layer).last else 5)
                )
            )
            assert _read(disk, 0, len(content)) == _read(disk, 64 * MIB, len(content)) == content
        await disk.detach()


@contextmanager
def _endless_writer(disk: DeviceStack, region_b: int) -> Generator[subprocess.Popen[bytes]]:
    """A VMM that writes the first part of its disk as fast as it can, again and again, and has the kernel write it at once."""
    script = f"""
import os
fd = os.open({str(disk.path)!r}, os.O_RDWR)
piece = os.urandom({MIB})
while True:
    for at in range(0, {region_b}, {MIB}):
        os.pwrite(fd, piece, at)
        os.posix_fadvise(fd, at, {MIB}, os.POSIX_FADV_DONTNEED)
"""
    with subprocess.Popen([sys.executable, "-c", script]) as vmm:
        try:
            yield vmm
        finally:
            vmm.kill()
            cow_space.give_up(f"{_PREFIX}.")  # it could not end otherwise


def _written_b(vmm: subprocess.Popen[bytes]) -> int:
    """What it has written into the page cache."""
    (line,) = [
        line for line in Path(f"/proc/{vmm.pid}/io").read_text().splitlines() if line.startswith("wchar:")
    ]
    return int(line.split()[1])


@asynccontextmanager
async def _stopped(vmm: subprocess.Popen[bytes]) -> AsyncGenerator[None]:
    """It stands still meanwhile."""
    vmm.send_signal(signal.SIGSTOP)
    try:
        stat = Path(f"/proc/{vmm.pid}/stat")
        await _until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        yield
    finally:
        vmm.send_signal(signal.SIGCONT)


async def merge_and_growth_end_while_a_vmm_writes_fast_and_the_host_is_at_its_reserve() -> None:
    """It stands still for them: what it wrote meanwhile would wait for space that there is not, and they would wait for that."""
    reserve_b, region_b = 64 * MIB, 32 * MIB
    with _folder() as disks, _small_file_system(384 * MIB) as host:
        first = await _new(disks, size_b=_LARGE_B)
        disk = await disks.attach("one", DiskRef(first, _BASE))
        _write(disk, _ONE, 0, sync=True)
        await disk.detach()
        layers = await _new(disks, first, size_b=_LARGE_B)
        disk = await disks.attach("one", DiskRef(layers, _BASE))
        other = _fill(host, but_b=reserve_b + 8 * MIB)
        allocator = SpaceAllocator(prefix=f"{_PREFIX}.", folder=host, reserve_b=reserve_b)
        async with _running(allocator):
            with _endless_writer(disk, region_b) as vmm:
                await _until(lambda: _written_b(vmm) > 8 * MIB)
                for work in (
                    lambda: disk.merge_layers(partial(_stopped, vmm)),
                    lambda: disk.grow(2 * _LARGE_B, partial(_stopped, vmm)),
                ):
                    # The other outcome is that it succeeds: what is taken depends on how fast the kernel writes.
                    with suppress(StorageFull):
                        async with asyncio.timeout(30):
                            await work()
                other.unlink()
                before = _written_b(vmm)
                await _until(lambda: _written_b(vmm) > before + 2 * region_b)
                async with _stopped(vmm):
                    await disk.flush()
                assert await disk.is_whole()
        await disk.detach()


async def a_disk_that_is_merged_grows_afterwards_and_loses_no_write() -> None:
    """Who grows it resumes it: what a guest writes then must not go to the layer that is being copied."""
    with _folder() as disks:
        first = await _new(disks)
        disk = await disks.attach("one", DiskRef(first, _BASE))
        _write(disk, _ONE, 0)
        await disk.detach()
        disk = await disks.attach("one", DiskRef(await _new(disks, first), _BASE))
        held = _ROOT / "held"
        arm_faults(f"vm.disk.merge.added=hold:{held}")
        try:
            merging = asyncio.create_task(disk.merge_layers(nullcontext))
            await _until(held.exists)
            growing = asyncio.create_task(disk.grow(2 * _IMAGE_B, nullcontext))
            writing = asyncio.create_task(asyncio.to_thread(_write, disk, _TWO, MIB, sync=True))
            done, _ = await asyncio.wait({growing, writing}, timeout=1)
            assert not done, "it was resumed"
        finally:
            arm_faults("")
            held.unlink()
        await asyncio.gather(merging, growing, writing)
        assert disk.size_b == 2 * _IMAGE_B
        assert (_read(disk, 0), _read(disk, MIB)) == (_ONE, _TWO)
        await disk.detach()


async def a_full_host_is_noticed() -> None:
    """A file system that does not keep what it promised."""
    with _folder() as disks, _small_file_system(64 * MIB) as host:
        layers = await _new(disks)
        disk = await disks.attach("one", DiskRef(layers, _BASE))
        assert await disk.is_whole()
        allocation.give_back(disks.path(layers[0]), 0x2000)
        _fill(host)
        with pytest.raises(OSError, match="Input/output"):
            _write(disk, os.urandom(4 * MIB), 0, sync=True)
        assert not await disk.is_whole()
        with pytest.raises(DamagedSnapshot):
            disks.seal(layers[0])
        await disk.detach()
        # There is not even the first space.
        with pytest.raises(StorageFull):
            await disks.attach("one", DiskRef(await _new(disks), _BASE))
        assert disks.attached() == []


async def damaged_layers_are_refused_before_the_kernel_reads_them() -> None:
    with _folder() as disks:
        first = await _new(disks)
        with disks.path(first[0]).open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 16)
        second = await _new(disks, first)
        for layers in (first, second, await _new(disks, (new_layer_id(),))):
            with pytest.raises(DamagedSnapshot):
                await disks.attach("one", DiskRef(layers, _BASE))
            assert disks.attached() == []


_ACTIVE = "vm.disk.switch.resumed"
"""From here on a switch of layers is not undone."""
_FAULTS = {
    "attach": ("vm.disk.after_image", "vm.disk.after_frozen", "vm.disk.after_written"),
    "switch": (
        "vm.disk.switch.suspended",
        "vm.disk.switch.added",
        "vm.disk.switch.loaded",
        _ACTIVE,
    ),
    "grow": ("vm.disk.grow.room",),
    "merge": ("vm.disk.merge.suspended", "vm.disk.merge.added", "vm.disk.merge.resumed"),
}


async def an_agent_that_is_killed_at_any_step_leaves_a_disk_that_can_be_used() -> None:
    # One program for all: Python takes seconds to start here.
    with subprocess.Popen(
        [sys.executable, "-m", "tests.kvm.disk_runs"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as agents:
        for action, points in _FAULTS.items():
            for point in points:
                with _folder() as disks:
                    await _killed(disks, action, point, agents)
        agents.terminate()


async def _killed(disks: DmDisks, action: str, point: str, agents: subprocess.Popen[str]) -> None:
    first = await _new(disks)
    second = await _new(disks, first)
    if action == "attach":
        _kill(agents, point, action, second)
        assert disks.attached() == ["one"]
        assert await disks.adopt("one") is None
        await disks.sweep(())
        return
    disk = await disks.attach("one", DiskRef(first, _BASE))
    _write(disk, _ONE, MIB)
    written = first
    if action == "merge":
        await disk.switch_layer(second[0])
    if action == "merge" or point == _ACTIVE:
        written = second
    vmm = os.open(disk.path, os.O_RDWR)
    try:
        _kill(agents, point, action, second)
        adopted = await disks.adopt("one")
        assert adopted is not None
        assert await adopted.written_layer() == written[0]
        os.pwrite(vmm, _TWO, 2 * MIB)
        await adopted.flush()
        if action == "switch":
            if point != _ACTIVE:
                await adopted.switch_layer(second[0])
            assert await adopted.written_layer() == second[0]
        elif action == "grow":
            await adopted.grow(2 * _IMAGE_B, nullcontext)
            assert adopted.size_b == 2 * _IMAGE_B
        else:
            await adopted.merge_layers(nullcontext)
            assert len(_devices("one")) == 4
            await disks.remove(first[0])
        assert os.pread(vmm, _PIECE_B, MIB) == _ONE
        assert os.pread(vmm, _PIECE_B, 2 * MIB) == _TWO
    finally:
        os.close(vmm)
    await adopted.detach()
    if action == "merge":
        disk = await disks.attach("one", DiskRef(second[:1], _BASE))
        assert (_read(disk, MIB), _read(disk, 2 * MIB)) == (_ONE, _TWO)
        await disk.detach()


def _kill(agents: subprocess.Popen[str], point: str, action: str, layers: tuple[str, ...]) -> None:
    """Let an agent do this, and be killed at the point."""
    assert agents.stdin is not None
    assert agents.stdout is not None
    print(f"{point}=kill", action, *layers, file=agents.stdin, flush=True)
    assert int(agents.stdout.readline()) == -signal.SIGKILL, (point, action)


@contextmanager
def _failing(point: str) -> Generator[None]:
    arm_faults(f"{point}=error")
    try:
        yield
    finally:
        arm_faults("")


async def steps_that_fail_leave_the_disk_as_it_was() -> None:
    """Without a kill: the undo of each step."""
    for point in _FAULTS["attach"]:
        with _folder() as disks:
            layers = await _new(disks, await _new(disks))
            with _failing(point), pytest.raises(FaultInjected):
                await disks.attach("one", DiskRef(layers, _BASE))
            assert left_over() == ([], [])
    for point in _FAULTS["switch"]:
        if point == _ACTIVE:
            continue
        with _folder() as disks:
            first = await _new(disks)
            disk = await disks.attach("one", DiskRef(first, _BASE))
            second = await _new(disks, first)
            with _failing(point), pytest.raises(FaultInjected):
                await disk.switch_layer(second[0])
            assert await disk.written_layer() == first[0]
            _write(disk, _ONE, 0, sync=True)
            await disk.switch_layer(second[0])
            await disk.detach()


TESTS: dict[str, Callable[[], Awaitable[None]]] = {
    test.__name__: test
    for test in (
        layers_show_what_lies_below_and_leave_it_as_it_is,
        a_disk_that_is_written_whole_is_not_full,
        a_switch_of_layers_freezes_what_was_written,
        a_flattened_disk_has_the_content_of_its_device,
        a_disk_grows_while_it_is_used,
        layers_are_merged_while_the_disk_is_used,
        a_merge_that_is_cancelled_changes_nothing,
        a_boot_writes_over_its_image,
        a_device_that_is_in_use_is_tried_again,
        a_sweep_removes_what_nobody_uses_and_nothing_of_others,
        the_doctor_finds_and_removes_the_devices_of_its_installation,
        the_devices_of_some_machines_leave_nothing,
        the_devices_of_many_machines_leave_nothing,
        writes_wait_while_the_host_is_full_and_nothing_is_lost,
        a_killed_vmm_whose_writes_wait_can_be_removed,
        what_waits_goes_on_whichever_step_of_taking_space_an_agent_was_killed_at,
        the_reserve_of_the_host_is_not_taken,
        a_disk_that_is_written_fast_and_grows_gets_its_space_in_time,
        merge_and_growth_end_while_a_vmm_writes_fast_and_the_host_is_at_its_reserve,
        a_disk_that_is_merged_grows_afterwards_and_loses_no_write,
        a_full_host_is_noticed,
        damaged_layers_are_refused_before_the_kernel_reads_them,
        an_agent_that_is_killed_at_any_step_leaves_a_disk_that_can_be_used,
        steps_that_fail_leave_the_disk_as_it_was,
    )
}


async def _act(action: str, layers: tuple[str, ...]) -> None:
    disks = _disks()
    if action == "attach":
        await disks.attach("one", DiskRef(layers, _BASE))
        return
    disk = await disks.adopt("one")
    assert disk is not None
    if action == "switch":
        await disk.switch_layer(layers[0])
    elif action == "merge":
        await disk.merge_layers(nullcontext)
    else:
        await disk.grow(2 * _IMAGE_B, nullcontext)


def _main() -> None:
    """For each line make a process that does what it says, with a fault armed; answer how it ended."""
    for line in sys.stdin:
        faults, action, *layers = line.split()
        child = os.fork()
        if child == 0:
            arm_faults(faults)
            asyncio.run(_act(action, tuple(layers)))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _main()
