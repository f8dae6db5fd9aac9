"""Owned tasks: none is lost, nor its error."""

from __future__ import annotations

import asyncio
import logging

import pytest

from wrenn.base.tasks import EndedFirst, OwnedTasks, first_of, run_unless


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


async def test_of_several_works_the_first_to_end_ends_the_others() -> None:
    ended: list[str] = []

    async def wait_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("other")

    async def fail() -> None:
        raise ValueError("no")

    await first_of(asyncio.sleep(0), wait_for_ever())
    with pytest.raises(ValueError, match="no"):
        await first_of(fail(), wait_for_ever())
    assert ended == ["other", "other"]


async def test_a_work_is_run_unless_something_else_ends_first() -> None:
    ended: list[str] = []

    async def wait_for_ever() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")
        return 1

    async def work() -> int:
        return 7

    assert await run_unless(asyncio.Event().wait(), work()) == 7
    with pytest.raises(EndedFirst):
        await run_unless(asyncio.sleep(0), wait_for_ever())
    assert ended == ["work"]
