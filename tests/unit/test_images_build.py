"""Deciding what to build: nothing when all is current, only what changed, and once for all who ask."""

from __future__ import annotations

import asyncio
import fcntl
import multiprocessing
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from wrenn.base.errors import InvalidState, NotFound
from wrenn.storage.images import Images, ensure_images
from wrenn.storage.images.distributions import this_distribution
from wrenn.storage.images.initramfs import build_initramfs
from wrenn.storage.images.kernel import LOADABLE, MODULES, load_kernel
from wrenn.storage.images.manifest import FORMAT, SCRATCH_PREFIX, FileFacts, publish
from wrenn.storage.images.recipe import load_recipe

_VERSION = "6.1.0-test"


async def _publish(place: Path, files: dict[str, bytes], manifest: dict[str, object]) -> dict[str, FileFacts]:
    scratch = place.parent / f"{SCRATCH_PREFIX}test"
    facts: dict[str, FileFacts] = {}
    for name, content in files.items():
        path = scratch / "result" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        facts[path.name] = FileFacts.of(path)
    described = {name.split(".")[0]: fact.to_json() for name, fact in facts.items() if name != "virtio.ko"}
    modules = {name: fact.to_json() for name, fact in facts.items() if name == "virtio.ko"}
    await publish(scratch / "result", place, {"format": FORMAT, **described, "modules": modules, **manifest})
    scratch.rmdir()
    return facts


@pytest.fixture
async def built(tmp_path: Path) -> Path:
    """A data folder with small but whole images for this machine, made from `envd` beside it."""
    try:
        recipe = load_recipe("minimal", this_distribution().suite)
    except (InvalidState, NotFound) as error:
        pytest.skip(error.message)
    data_dir = tmp_path / "data"
    files = {"vmlinux": b"kernel", "modules/virtio.ko": b"module"}
    kernel: dict[str, object] = {"load_order": "virtio.ko", "wanted": " ".join((*MODULES, *LOADABLE))}
    await _publish(data_dir / "kernels" / _VERSION, files, kernel)
    await _publish(data_dir / "templates/minimal", {"rootfs.ext4": b"disk"}, {"source_digest": recipe.digest})
    (tmp_path / "envd").write_bytes(b"first")
    (data_dir / "initramfs").mkdir()
    await build_initramfs(
        data_dir / "initramfs", load_kernel(data_dir / "kernels", _VERSION), tmp_path / "envd"
    )
    return data_dir


async def _ensure(data_dir: Path, said: list[str]) -> Images:
    return await ensure_images(data_dir, envd=data_dir.parent / "envd", progress=said.append)


async def test_nothing_is_done_when_all_is_current(built: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    said: list[str] = []
    images = await _ensure(built, said)
    assert (images.kernel_version, images.kernel.read_bytes(), images.rootfs.read_bytes()) == (
        _VERSION,
        b"kernel",
        b"disk",
    )
    assert said == []
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before


async def test_a_data_folder_may_link_to_the_images_of_another(built: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("kernels", "initramfs", "templates"):
        (other / name).symlink_to(built / name)
    said: list[str] = []
    assert (await _ensure(other, said)).template_digest == (await _ensure(built, said)).template_digest
    assert said == []


@pytest.mark.root
async def test_a_new_envd_needs_only_a_new_initramfs(built: Path, tmp_path: Path) -> None:
    said: list[str] = []
    old = await _ensure(built, said)
    (tmp_path / "envd").write_bytes(b"second")
    new = await _ensure(built, said)
    assert new.initramfs != old.initramfs
    assert new.envd_digest != old.envd_digest
    assert (new.kernel_digest, new.template_digest) == (old.kernel_digest, old.template_digest)
    assert said == []


@pytest.mark.root
async def test_what_a_killed_build_left_is_removed(built: Path, tmp_path: Path) -> None:
    for folder in ("kernels", "initramfs", "templates"):
        (built / folder / f"{SCRATCH_PREFIX}left" / "root").mkdir(parents=True)
    (tmp_path / "envd").write_bytes(b"second")
    await _ensure(built, [])
    assert list(built.rglob(f"{SCRATCH_PREFIX}*")) == []


def _hold_the_lock(path: Path, held: Event, release: Event) -> None:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        held.set()
        release.wait(60)


@pytest.mark.root
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
            assert (await build).kernel_version == _VERSION
    finally:
        other.kill()
        other.join()
