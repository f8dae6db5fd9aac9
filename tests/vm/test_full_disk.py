"""A full disk of the host: creates fail cleanly, what runs goes on, and what stopped for want of room continues."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.installations import remove_installation
from tests.vm.kit import created, new_spec, output, sh
from wrenn.agent.doctor import examine
from wrenn.agent.sandboxes import SandboxSpec, State
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base.errors import InvalidState, StorageFull
from wrenn.base.ids import SnapshotId
from wrenn.base.units import MIB
from wrenn.linux.disk_space import free_b
from wrenn.testing.server import free_port


@pytest.fixture(scope="module")
def small_folder() -> Iterator[Path]:
    """A file system of 800 MiB for the one installation of these tests, whose base is booted once."""
    folder = Path(tempfile.mkdtemp(prefix="wrenn-full-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=800m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        empty(folder)
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@pytest.fixture
def small_disk(small_folder: Path, images_dir: Path) -> Iterator[Settings]:
    """An installation without sandboxes, whose data folder is a file system of 800 MiB."""
    yield Settings.from_environment(
        {
            "WRENN_DATA_DIR": str(small_folder),
            "WRENN_IMAGES_DIR": str(images_dir),
            "WRENN_AGENT_LISTEN": f"127.0.0.1:{free_port()}",
            "WRENN_READY_SLOTS": "1",
            "WRENN_DISK_RESERVE_MB": "32",
        }
    )
    (small_folder / "filler").unlink(missing_ok=True)
    if any(path for name in ("sandboxes", "snapshots") for path in (small_folder / name).glob("*")):
        empty(small_folder)


def empty(folder: Path) -> None:
    """Remove the installation, with what a test that failed has left."""
    asyncio.run(remove_installation(folder))
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def fill(path: Path, *, leave_b: int) -> None:
    """Write until no more than `leave_b` is free."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while free_b(path.parent) > leave_b and file.write(bytes(1024 * 1024)):
            pass
    assert free_b(path.parent) <= leave_b


async def called(agent: Agent, spec: SandboxSpec, script: str) -> None:
    """A call as users make it: it ends with the sandbox."""
    async with agent.sandboxes.use(spec.sandbox_id) as running:
        await sh(running, script, timeout_s=200)


async def test_a_create_fails_cleanly_and_others_go_on(small_disk: Settings) -> None:
    async with running_agent(small_disk) as agent:
        _, sandbox = await created(agent.sandboxes)
        filler = small_disk.data_dir / "filler"
        fill(filler, leave_b=24 * MIB)  # below the reserve, which is there for those that run
        spec = new_spec()
        with pytest.raises(StorageFull):
            await agent.sandboxes.ensure(spec)
        assert not agent.layout.sandbox(spec.sandbox_id).exists()
        assert await output(sandbox, "echo still here") == "still here\n"
        filler.unlink()
        await agent.sandboxes.ensure(spec)
        for record, _ in agent.sandboxes.list():
            await agent.sandboxes.remove(record.spec.sandbox_id)
    assert (await examine(small_disk)).leftovers == []


async def test_a_sandbox_that_fills_the_host_stops_and_continues_when_there_is_space(
    small_disk: Settings,
) -> None:
    async with running_agent(small_disk) as agent:
        spec, sandbox = await created(agent.sandboxes)
        filler = small_disk.data_dir / "filler"
        fill(filler, leave_b=0)
        writing = asyncio.create_task(
            sh(
                sandbox,
                "head -c 50000000 /dev/urandom > /root/big && sync && md5sum < /root/big",
                timeout_s=100,
            )
        )
        done, _ = await asyncio.wait({writing}, timeout=8)
        assert not done, "the guest waits instead of losing data"
        filler.unlink()
        result = await writing
        assert result.exit_code == 0, result
        assert await output(sandbox, "md5sum < /root/big") == result.stdout.decode()
        await agent.sandboxes.remove(spec.sandbox_id)


async def test_a_sandbox_that_writes_without_end_is_suspended_before_the_reserve_is_used_up(
    small_disk: Settings,
) -> None:
    """Its neighbour goes on, is paused and resumed meanwhile; with room again the writer goes on, or is removed."""
    reserve_b = 192 * MIB
    async with running_agent(replace(small_disk, disk_reserve_b=reserve_b)) as agent:
        writer_spec, writer = await created(agent.sandboxes)
        spec, neighbour = await created(agent.sandboxes)
        filler = small_disk.data_dir / "filler"
        fill(filler, leave_b=reserve_b + 20 * MIB)
        command = "while true; do head -c 100000000 /dev/zero | tr '\\0' x >> /root/big; sync; done"
        writing = asyncio.create_task(called(agent, writer_spec, command))
        lowest_b = free_b(small_disk.data_dir)
        async with asyncio.timeout(60):
            while not writer.suspend_reason:
                lowest_b = min(lowest_b, free_b(small_disk.data_dir))
                await asyncio.sleep(0.01)
        assert lowest_b > reserve_b // 2
        with pytest.raises(StorageFull, match="host is full"):
            async with agent.sandboxes.use(writer_spec.sandbox_id):
                pass
        assert await output(neighbour, "echo here > /root/file; sync; cat /root/file") == "here\n"
        await agent.sandboxes.pause(spec.sandbox_id)
        assert free_b(small_disk.data_dir) > reserve_b // 2
        filler.unlink()
        async with asyncio.timeout(30):
            while writer.suspend_reason:
                await asyncio.sleep(0.02)
        await agent.sandboxes.resume(spec.sandbox_id)
        await agent.sandboxes.remove(writer_spec.sandbox_id)
        with pytest.raises(InvalidState, match="being removed"):
            await writing
        await agent.sandboxes.remove(spec.sandbox_id)
    assert (await examine(small_disk)).leftovers == []


async def test_a_sandbox_that_used_up_its_share_is_suspended(small_disk: Settings) -> None:
    async with running_agent(replace(small_disk, sandbox_disk_b=20 * MIB)) as agent:
        spec, sandbox = await created(agent.sandboxes)
        other, neighbour = await created(agent.sandboxes)
        writing = asyncio.create_task(
            called(agent, spec, "head -c 40000000 /dev/zero | tr '\\0' x > /root/big; sync")
        )
        async with asyncio.timeout(60):
            while not sandbox.suspend_reason:
                await asyncio.sleep(0.02)
        with pytest.raises(StorageFull, match="used up the 20 MB"):
            async with agent.sandboxes.use(spec.sandbox_id):
                pass
        assert await output(neighbour, "echo on") == "on\n"
        # Some more is not enough; with enough it goes on, and has the larger disk.
        with pytest.raises(StorageFull, match="used up the 21 MB"):
            await agent.sandboxes.set_disk(spec.sandbox_id, 5121)
        await agent.sandboxes.set_disk(spec.sandbox_id, 5170)
        assert not sandbox.suspend_reason
        await writing
        assert await output(sandbox, "stat -c %s /root/big") == "40000000\n"
        for each in (spec, other):
            await agent.sandboxes.remove(each.sandbox_id)


async def test_a_pause_or_snapshot_without_space_fails_cleanly_and_the_sandbox_keeps_running(
    small_disk: Settings,
) -> None:
    async with running_agent(small_disk) as agent:
        spec, sandbox = await created(agent.sandboxes)
        await output(sandbox, "head -c 8000000 /dev/urandom > /dev/shm/kept; sync")
        seen = await output(sandbox, "md5sum < /dev/shm/kept")
        filler = small_disk.data_dir / "filler"
        for room_b in (0, 100_000, 1 * MIB, 4 * MIB, 9 * MIB):
            fill(filler, leave_b=room_b)
            with pytest.raises(StorageFull):
                await agent.sandboxes.pause(spec.sandbox_id)
            with pytest.raises(StorageFull):
                await agent.sandboxes.ensure_snapshot(spec.sandbox_id, SnapshotId.new())
            filler.unlink()
            record, running = agent.sandboxes.inspect(spec.sandbox_id)
            assert (record.state, running) == (State.RUNNING, sandbox)
            # The disk watch may have suspended it meanwhile, so that its programs could not be thawed at once.
            async with asyncio.timeout(30):
                while sandbox.suspend_reason or sandbox.guest_frozen:
                    await asyncio.sleep(0.05)
            assert await output(sandbox, "md5sum < /dev/shm/kept") == seen
            assert list(agent.layout.snapshots.iterdir()) == []
        await agent.sandboxes.pause(spec.sandbox_id)
        fill(filler, leave_b=24 * MIB)
        with pytest.raises(StorageFull):
            await agent.sandboxes.resume(spec.sandbox_id)
        assert agent.sandboxes.inspect(spec.sandbox_id)[0].state is State.PAUSED
        filler.unlink()
        await agent.sandboxes.resume(spec.sandbox_id)
        assert await output(agent.sandboxes.get(spec.sandbox_id), "md5sum < /dev/shm/kept") == seen
        await agent.sandboxes.remove(spec.sandbox_id)
    assert (await examine(small_disk)).leftovers == []
