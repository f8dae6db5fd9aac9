"""Memory images in use, with real memfds: nobody gets another image than the one asked for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from wrenn.base.units import GIB, PAGE_B
from wrenn.storage.errors import DamagedBase
from wrenn.storage.folders import Folders
from wrenn.vm import ImageRef, base_files
from wrenn.vm.memory_images import LoadedImages
from wrenn.vm.qemu.bases import QemuBase
from wrenn.vm.qemu.sealed_images import SealedImages

KEYS = [f"base{number:02}" for number in range(24)]


def make_base(root: Path, key: str, content: str) -> None:
    draft = root / f".draft-{key}"
    draft.mkdir(parents=True)
    (draft / "memory").write_bytes(content.encode().ljust(PAGE_B, b"."))
    for name in ("state", "disk.qcow2", "empty.qcow2", "rootfs.ext4"):
        (draft / name).write_bytes(name.encode())
    base_files.publish(QemuBase, draft, root, key=key, facts={})


@pytest.fixture
async def images(tmp_path: Path) -> AsyncIterator[LoadedImages]:
    folders = Folders(tmp_path)
    for key in KEYS:
        make_base(folders.bases, key, key)
    images = LoadedImages(folders, SealedImages(folders), limit_b=GIB)
    yield images
    await images.close()


async def content(images: LoadedImages, key: str) -> str:
    async with images.descriptor(ImageRef(key)) as fd:
        await asyncio.sleep(0)
        return os.pread(fd, 6, 0).decode()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_many_images_at_once_never_stand_for_each_other(images: LoadedImages) -> None:
    before = descriptors()
    wanted = [key for _ in range(20) for key in KEYS]
    assert await asyncio.gather(*(content(images, key) for key in wanted)) == wanted
    await images.close()
    assert descriptors() == before


async def test_an_image_that_is_let_go_while_it_is_loaded_is_loaded_anew(
    images: LoadedImages, tmp_path: Path
) -> None:
    reading = asyncio.create_task(content(images, KEYS[0]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    make_base(tmp_path / "bases", KEYS[0], "second")
    images.forget(ImageRef(KEYS[0]))
    assert await reading == "second"


async def test_a_cancelled_or_failed_load_leaves_nothing(images: LoadedImages, tmp_path: Path) -> None:
    before = descriptors()
    memory = tmp_path / "bases" / KEYS[1] / "memory"
    memory.chmod(0o600)
    memory.write_bytes(b"other".ljust(PAGE_B))
    with pytest.raises(DamagedBase):
        await content(images, KEYS[1])
    reading = asyncio.create_task(content(images, KEYS[0]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await images.close()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert descriptors() == before
