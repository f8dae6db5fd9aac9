"""Archives of builds: temporary files within limits, and uploads that hold up no others."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from wrenn.base.clock import SystemClock
from wrenn.base.errors import DeadlineExceeded, RateLimited, Unavailable
from wrenn.base.ids import TeamId
from wrenn.base.secrets import Secret
from wrenn.base.units import MIB
from wrenn.control.builds import ArchiveUploads, ScratchSpace, uploads
from wrenn.control.objects import ObjectStore, StoreSettings, UrlSigner
from wrenn.recipe.archive import ContextArchive


def test_temporary_files_have_a_limit_together_and_go_without_a_trace(tmp_path: Path) -> None:
    space = ScratchSpace(tmp_path / "scratch", limit_b=4 * MIB, reserve_b=0)
    owner = uuid4()
    first, second = space.new(owner), space.new(owner)
    first.write(bytes(2 * MIB))
    with pytest.raises(Unavailable, match="no room"):
        second.write(bytes(2 * MIB))
    first.seek(0)
    assert first.read() == bytes(2 * MIB)
    first.close()
    second.write(bytes(2 * MIB))
    second.close()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_an_owner_leaves_as_much_as_it_has_for_the_others(tmp_path: Path) -> None:
    space = ScratchSpace(tmp_path, limit_b=16 * MIB, reserve_b=0)
    files = {owner: space.new(owner) for owner in (uuid4(), uuid4(), uuid4(), uuid4())}
    taken: list[int] = []
    for file in files.values():
        taken.append(0)
        with contextlib.suppress(Unavailable):
            while taken[-1] < 16 * MIB:
                file.write(bytes(MIB // 2))
                file.flush()
                taken[-1] += MIB // 2
    assert taken == [8 * MIB, 4 * MIB, 2 * MIB, MIB]
    for file in files.values():
        with contextlib.suppress(Unavailable):
            file.close()
    with space.new(uuid4()) as file:
        file.write(bytes(8 * MIB))


def test_the_disk_has_its_reserve(tmp_path: Path) -> None:
    space = ScratchSpace(tmp_path, reserve_b=1 << 60)
    with space.new(uuid4()) as file, pytest.raises(Unavailable, match="no room"):
        file.write(bytes(MIB))


def test_an_archive_that_is_too_large_unpacked_takes_no_space_from_others(
    tmp_path: Path,
) -> None:
    space = ScratchSpace(tmp_path, limit_b=8 * MIB, reserve_b=0)
    bomb = gzip.compress(bytes(64 * MIB))
    for _ in range(3):
        with pytest.raises(Unavailable, match="no room"):
            ContextArchive.open(io.BytesIO(bomb), new_scratch=partial(space.new, uuid4()))
    with space.new(uuid4()) as file:
        file.write(bytes(4 * MIB))


async def test_slow_uploads_hold_up_no_others_and_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_LEAST_S", 1.0)
    objects = ObjectStore(
        StoreSettings((tmp_path / "store").as_uri()), UrlSigner(Secret("x" * 32), SystemClock())
    )
    archives = ArchiveUploads(objects, ScratchSpace(tmp_path / "scratch", reserve_b=0))

    async def trickle() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.2)

    async def whole() -> AsyncIterator[bytes]:
        yield bytes(MIB)

    teams = [TeamId.new() for _ in range(32)]
    slow = [
        asyncio.create_task(archives.store(team, uuid4(), f"team/uploads/{index}", trickle()))
        for index, team in enumerate(teams[:31])
    ]
    await asyncio.sleep(0.2)
    with pytest.raises(RateLimited, match="another archive"):
        await archives.store(teams[0], uuid4(), "team/uploads/more", whole())
    store = partial(archives.store, owner=uuid4(), key="team/uploads/quick", archive=whole())
    async with asyncio.timeout(0.7):
        await store(teams[31])
    assert await objects.get("team/uploads/quick", limit_b=MIB) == bytes(MIB)
    for ended in await asyncio.gather(*slow, return_exceptions=True):
        assert isinstance(ended, DeadlineExceeded)
    await objects.close()
