"""The limit of a host's images while creates use them. Costs less than 1 s."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wrenn.agent.images import Cache, Images, StoredSource
from wrenn.agent.images.job import Progress, Source
from wrenn.base.ids import ImageId
from wrenn.storage.images import ImageFacts, ImageFolder

_SIZE_B = 64 << 10


@dataclass
class References:
    """The templates that sandboxes of a host use."""

    names: set[str] = field(default_factory=set[str])
    searches: int = 0

    def search(self) -> set[str]:
        self.searches += 1
        return set(self.names)


async def _fetched(
    source: Source, image_id: ImageId, draft: Path, progress: Progress, *, job_slot: int
) -> ImageFacts:
    (draft / "rootfs.ext4").write_bytes(os.urandom(_SIZE_B))
    return ImageFacts("content", uploaded=True)


async def _no_upload(*_: object) -> int:
    raise AssertionError


def _images(root: Path, references: References, *, limit_b: int, on_removed: Callable[[], None]) -> Images:
    return Images(
        folder=ImageFolder(root),
        data_dir=root,
        reserve_b=1,
        prepare=_fetched,
        upload=_no_upload,
        cache=Cache(limit_b, references.search, on_removed),
    )


async def _with_three_old(images: Images, root: Path) -> list[ImageId]:
    """Fetch three images, which nobody used for long since, in the order in which they would leave."""
    made = [ImageId.new() for _ in range(3)]
    for at, image_id in enumerate(made, start=1):
        await images.ensure(image_id, StoredSource(), wait_s=None)
        os.utime(root / str(image_id), (at, at))
    return made


async def test_an_image_that_is_used_while_others_leave_stays(tmp_path: Path) -> None:
    references, folder = References(), ImageFolder(tmp_path)
    fetched = await _with_three_old(
        _images(tmp_path, References(), limit_b=0, on_removed=lambda: None), tmp_path
    )

    def use_others() -> None:
        folder.mark_used(fetched[1])
        references.names.add(str(fetched[2]))

    images = _images(tmp_path, references, limit_b=1, on_removed=use_others)
    newest = ImageId.new()
    await images.ensure(newest, StoredSource(), wait_s=None)
    assert set(folder.ids()) == {*fetched[1:], newest}


async def test_references_are_searched_only_beyond_the_limit(tmp_path: Path) -> None:
    references = References()
    images = _images(tmp_path, references, limit_b=1 << 30, on_removed=lambda: None)
    await _with_three_old(images, tmp_path)
    assert references.searches == 0
