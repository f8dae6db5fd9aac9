"""Images that are built anew, which needs root: what is old, after what was left, and one after the other."""

from __future__ import annotations

import asyncio
import fcntl
import multiprocessing
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from tests.built_images import VERSION, built_images, ensure
from wrenn.storage.images import abandoned_scratch, ensure_images, remove_abandoned_scratch
from wrenn.storage.images.manifest import SCRATCH_PREFIX


@pytest.fixture
async def built(tmp_path: Path) -> Path:
    return await built_images(tmp_path)


async def test_a_new_envd_needs_only_a_new_initramfs(built: Path, tmp_path: Path) -> None:
    said: list[str] = []
    old = await ensure(built, said)
    (tmp_path / "envd").write_bytes(b"second")
    new = await ensure(built, said)
    assert new.initramfs != old.initramfs
    assert new.envd_digest != old.envd_digest
    assert (new.kernel_digest, new.template_digest) == (old.kernel_digest, old.template_digest)
    assert said == []


async def test_what_a_killed_build_left_is_removed(built: Path, tmp_path: Path) -> None:
    for folder in ("kernels", "initramfs", "templates"):
        (built / folder / f"{SCRATCH_PREFIX}left" / "root").mkdir(parents=True)
    assert len(abandoned_scratch(built)) == 3, "as `wrenn doctor` lists it"
    (tmp_path / "envd").write_bytes(b"second")
    await ensure(built, [])
    assert list(built.rglob(f"{SCRATCH_PREFIX}*")) == []


async def test_the_doctor_removes_nothing_of_a_running_build(built: Path) -> None:
    left = built / "templates" / f"{SCRATCH_PREFIX}left"
    left.mkdir()
    with (built / "kernels" / ".build-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert abandoned_scratch(built) == []
    assert abandoned_scratch(built) == [left]
    await remove_abandoned_scratch(built)
    assert abandoned_scratch(built) == []
    assert not left.exists()


def _hold_the_lock(path: Path, held: Event, release: Event) -> None:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        held.set()
        release.wait(60)


async def test_a_build_waits_for_the_one_that_runs(built: Path, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    held, release = spawn.Event(), spawn.Event()
    other = spawn.Process(target=_hold_the_lock, args=(built / "kernels/.build-lock", held, release))
    other.start()
    try:
        assert await asyncio.to_thread(held.wait, 30)
        (tmp_path / "envd").write_bytes(b"second")
        waiting = asyncio.Event()
        build = asyncio.create_task(
            ensure_images(built, envd=tmp_path / "envd", progress=lambda _: waiting.set())
        )
        async with asyncio.timeout(10):
            await waiting.wait()
        assert not build.done()
        release.set()
        async with asyncio.timeout(10):
            assert (await build).kernel_version == VERSION
    finally:
        other.kill()
        other.join()
