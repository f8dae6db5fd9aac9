"""Background loops: they go on after failures, and say what they did last."""

from __future__ import annotations

import asyncio
import logging

import pytest

from wrenn.base.loops import Loop


async def test_a_loop_goes_on_after_a_failure_and_says_what_it_did_last(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop("count")
    seen: list[tuple[int, str]] = []
    enough = asyncio.Event()

    async def work() -> None:
        seen.append((loop.status.failures, loop.status.error))
        if len(seen) <= 2:
            raise ValueError(f"failure {len(seen)}")
        if len(seen) == 4:
            enough.set()

    running = asyncio.create_task(loop.run(work, every_s=0))
    with caplog.at_level(logging.WARNING):
        async with asyncio.timeout(10):
            await enough.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    # The status of a run under way still has the error of the run before.
    assert seen[:4] == [(0, ""), (1, "failure 1"), (2, "failure 2"), (0, "")]
    assert [record.message for record in caplog.records] == [
        "background loop failed",
        "background loop still fails",
    ]
    assert loop.status.error == ""
    assert loop.status.duration_s is not None


async def test_a_wake_up_during_a_run_begins_the_next_one_at_once() -> None:
    loop = Loop("woken")
    times = 0
    enough = asyncio.Event()

    async def work() -> None:
        nonlocal times
        times += 1
        loop.wake()
        if times == 3:
            enough.set()

    running = asyncio.create_task(loop.run(work, every_s=3600))
    async with asyncio.timeout(10):
        await enough.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_run_says_when_the_next_one_is_due() -> None:
    loop = Loop("due")
    times: list[float] = []
    enough = asyncio.Event()

    async def work() -> float:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 2:
            enough.set()
        return 0.01

    running = asyncio.create_task(loop.run(work, every_s=3600))
    async with asyncio.timeout(10):
        await enough.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert times[1] - times[0] >= 0.01


async def test_what_a_failed_attempt_returns_is_chosen_by_the_caller() -> None:
    async def fail() -> int:
        raise ValueError("no")

    async def succeed() -> int:
        return 1

    loop = Loop("attempt")
    assert await loop.attempt(fail, otherwise=7) == 7
    assert (loop.status.error, loop.status.failures) == ("no", 1)
    assert await loop.attempt(succeed, otherwise=7) == 1
    assert (loop.status.error, loop.status.failures) == ("", 0)
