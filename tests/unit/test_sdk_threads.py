"""Work on the local disk in a thread, and the cancellation of a task that waits for it."""

from __future__ import annotations

import asyncio
import io
import tarfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import pytest

from wrenn.sdk import _tar
from wrenn.sdk._aio import to_end_in_thread
from wrenn.sdk._async.copying import _unpack
from wrenn.sdk.errors import UnexpectedAnswerError


async def test_a_cancellation_waits_for_the_thread() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(10)
        ended.set()

    task = asyncio.create_task(to_end_in_thread(work))
    await asyncio.to_thread(begun.wait, 10)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_an_error_of_the_work_is_raised() -> None:
    def work() -> None:
        raise UnexpectedAnswerError("x")

    with pytest.raises(UnexpectedAnswerError):
        await to_end_in_thread(work)


async def test_a_cancelled_download_of_a_folder_is_a_cancellation_and_writes_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    create = _tar.create_private

    def slow(path: Path) -> BinaryIO:
        begun.set()
        may_end.wait(10)
        return create(path)

    monkeypatch.setattr(_tar, "create_private", slow)
    top = tmp_path / "top"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("a", "b"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    body = packed.getvalue()

    async def chunks() -> AsyncIterator[bytes]:
        yield body[:-2048]
        yield body[-2048:]

    task = asyncio.create_task(_unpack(chunks(), top, None))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    after = sorted(path.name for path in top.iterdir())
    assert not [name for name in after if name.endswith(".part")]
    await asyncio.sleep(0)
    assert sorted(path.name for path in top.iterdir()) == after
