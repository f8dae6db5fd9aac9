"""Work in threads that a cancellation does not leave behind."""

from __future__ import annotations

import asyncio
import threading

import pytest

from wrenn.linux import threads


async def test_a_cancellation_is_raised_when_the_work_has_ended_and_its_result_is_dropped() -> None:
    began, go_on = threading.Event(), threading.Event()
    dropped: list[int] = []

    def work() -> int:
        began.set()
        assert go_on.wait(10)
        return 7

    task = asyncio.create_task(threads.run_to_end(work, drop=dropped.append))
    await asyncio.to_thread(began.wait, 10)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert dropped == [7]


async def test_the_result_and_the_error_of_the_work_are_its_callers() -> None:
    def fail() -> None:
        raise ValueError("no")

    assert await threads.run_to_end(lambda: 3) == 3
    with pytest.raises(ValueError, match="no"):
        await threads.run_to_end(fail)
