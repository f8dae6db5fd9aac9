"""Which preparations of images wait for which: imports, whose registries may be slow, hold up no other work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from wrenn.agent.images import Cache, ContainerSource, DiskSource, Images
from wrenn.agent.images.job import Phase, Progress, Source
from wrenn.base.ids import ImageId, SandboxId
from wrenn.storage.images import ImageFacts, ImageFolder


async def _prepare(
    source: Source, image_id: ImageId, draft: Path, progress: Progress, *, job_slot: int
) -> ImageFacts:
    """Import for ever, and flatten at once."""
    if isinstance(source, ContainerSource):
        progress.begin(Phase.PULL)
        await asyncio.Event().wait()
    (draft / "rootfs.ext4").write_bytes(b"x")
    return ImageFacts("content")


async def _no_upload(*_: object) -> int:
    raise AssertionError


@pytest.fixture
async def images(tmp_path: Path) -> AsyncIterator[Images]:
    images = Images(
        folder=ImageFolder(tmp_path),
        data_dir=tmp_path,
        reserve_b=1,
        prepare=_prepare,
        upload=_no_upload,
        cache=Cache(0, set, lambda: None),
    )
    yield images
    await images.close()


def _pulling(images: Images) -> int:
    return sum(one.progress.phase is Phase.PULL for one in images.list())


async def test_imports_hold_up_neither_flattening_nor_the_imports_of_others(images: Images) -> None:
    for scope in ("first", "first", "first", "second"):
        await images.ensure(ImageId.new(), ContainerSource("slow.example/x", 64, scope=scope))
    await asyncio.sleep(0.1)
    assert _pulling(images) == 2, "one of each owner"
    flattened = await images.ensure(ImageId.new(), DiskSource(SandboxId.new()), wait_s=5)
    assert flattened.ready is not None
    await images.ensure(ImageId.new(), ContainerSource("other.example/x", 64, scope="third"))
    await asyncio.sleep(0.1)
    assert _pulling(images) == 3


async def test_the_next_import_of_an_owner_begins_when_one_has_ended(images: Images) -> None:
    first, second = ImageId.new(), ImageId.new()
    for image_id in (first, second):
        await images.ensure(image_id, ContainerSource("slow.example/x", 64, scope="one"))
    await asyncio.sleep(0.1)
    await images.remove(first)
    await asyncio.sleep(0.1)
    assert _pulling(images) == 1
    assert [one.image_id for one in images.list()] == [second]
