"""Steps are recorded for the task that records them, and for no other."""

from __future__ import annotations

import asyncio

from wrenn.base.steps import STEPS_LIMIT, StepLog, recording, step_done


def test_without_a_recording_steps_are_nothing():
    step_done("nobody records this")


def test_steps_are_recorded_in_their_order_and_bounded():
    log = StepLog("create")
    with recording(log):
        step_done("first")
        with recording(StepLog("inner")):
            step_done("not this")
        step_done("second")
    step_done("nor this")
    assert [step.name for step in log.steps] == ["first", "second"]
    assert all(step.ms >= 0 for step in log.steps)
    for number in range(2 * STEPS_LIMIT):
        log.add(str(number))
    assert len(log.steps) == STEPS_LIMIT


async def test_tasks_beside_one_another_have_their_own_steps():
    async def work(name: str) -> list[str]:
        log = StepLog(name)
        with recording(log):
            for number in range(3):
                await asyncio.sleep(0)
                step_done(f"{name}{number}")
        return [step.name for step in log.steps]

    assert await asyncio.gather(work("a"), work("b")) == [["a0", "a1", "a2"], ["b0", "b1", "b2"]]
