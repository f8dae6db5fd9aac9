"""Owned tasks: none is lost, nor its error."""

from __future__ import annotations

import asyncio
import logging

import pytest

from wrenn.base.tasks import OwnedTasks, repeat


async def test_close_cancels_all_tasks_and_waits_for_their_end() -> None:
    tasks = OwnedTasks()
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")

    task = tasks.start("work", work())
    await asyncio.sleep(0)
    await tasks.close()
    assert ended == ["work"]
    assert task.cancelled()
    await tasks.close()


async def test_one_failure_is_logged_and_ends_no_other_task(caplog: pytest.LogCaptureFixture) -> None:
    tasks = OwnedTasks()

    async def fail() -> None:
        raise ValueError("no")

    other = tasks.start("other", asyncio.Event().wait())
    with caplog.at_level(logging.ERROR):
        await asyncio.wait([tasks.start("failing", fail())])
        await asyncio.sleep(0)
    assert [vars(record)["task"] for record in caplog.records] == ["failing"]
    assert not other.done()
    await tasks.close()


async def test_what_is_repeated_goes_on_after_a_failure_which_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    times = 0
    enough = asyncio.Event()

    async def work() -> None:
        nonlocal times
        times += 1
        if times == 1:
            raise ValueError("no")
        enough.set()

    repeating = asyncio.create_task(repeat(work, every_s=0, failed="work was not done"))
    with caplog.at_level(logging.ERROR):
        async with asyncio.timeout(10):
            await enough.wait()
    repeating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await repeating
    assert [record.message for record in caplog.records] == ["work was not done"]
