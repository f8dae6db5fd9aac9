"""An agent that has lost the control plane pauses its sandboxes; and what its successor makes of that. Takes about 5 s."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.agent.kit import assert_nothing_left, created, output, until
from tests.held_points import held_points
from tests.unit.test_agent_running import StoppedClock
from wrenn.agent.control_loss import ControlLoss
from wrenn.agent.sandboxes import State
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base.faults import arm_faults
from wrenn.protocol.host.causes import CONTROL_PLANE_LOST
from wrenn.testing.simulated_agent import ProcessHost

HEARTBEAT_S = 30.0
LOST_AFTER_S = 100.0


@asynccontextmanager
async def watching(agent: Agent, clock: StoppedClock) -> AsyncGenerator[ControlLoss]:
    loss = ControlLoss(
        path=agent.layout.outage,
        sandboxes=agent.sandboxes,
        clock=clock,
        heartbeat_s=HEARTBEAT_S,
        lost_after_s=LOST_AFTER_S,
        retry_s=0.05,
    )
    task = asyncio.create_task(loss.run())
    try:
        yield loss
    finally:
        task.cancel()
        await asyncio.wait({task})


def fail_beats(loss: ControlLoss, clock: StoppedClock, count: int) -> None:
    for _ in range(count):
        clock.go(HEARTBEAT_S)
        loss.no_contact()


def states(agent: Agent) -> list[State]:
    return sorted(record.state for record, _ in agent.sandboxes.list())


async def test_all_are_paused_except_one_that_cannot_be_and_is_tried_again(
    agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    clock = StoppedClock()
    specs = [(await created(agent.sandboxes))[0] for _ in range(3)]
    for spec in specs:
        await output(agent.sandboxes.get(spec.sandbox_id), "echo kept >/root/file")
    arm_faults("agent.pause.after_freeze#1=error,agent.pause.after_freeze#4=error")
    async with watching(agent, clock) as loss:
        fail_beats(loss, clock, 3)
        await asyncio.sleep(0)
        assert states(agent) == [State.RUNNING] * 3
        fail_beats(loss, clock, 1)
        await until(lambda: states(agent) == [State.PAUSED] * 3)
        # One that is started now was not asked for by a control plane that is lost.
        later, _ = await created(agent.sandboxes)
        fail_beats(loss, clock, 2)
        await asyncio.sleep(0.2)
        assert agent.sandboxes.inspect(later.sandbox_id)[0].state is State.RUNNING
        assert (loss.outage.paused, loss.outage.to_pause) == (3, ())
        loss.contact()
        assert not agent.layout.outage.exists()
    assert caplog.text.count("sandbox runs on: it could not be paused") >= 2, "it was tried again"
    back = next(r for r in caplog.records if r.message == "contact with the control plane is back")
    assert (back.__dict__["paused"], back.__dict__["still_running"]) == (3, 0)
    for spec in specs:
        record, _ = agent.sandboxes.inspect(spec.sandbox_id)
        assert record.cause == CONTROL_PLANE_LOST
        assert "no contact with the control plane" in record.reason
        record = await agent.sandboxes.resume(spec.sandbox_id)
        assert (record.cause, record.reason) == ("", "")
        assert await output(agent.sandboxes.get(spec.sandbox_id), "cat /root/file") == "kept\n"
    await assert_nothing_left(agent)


async def test_contact_that_returns_spares_those_that_are_not_paused_yet(
    agent: Agent, tmp_path: Path
) -> None:
    clock = StoppedClock()
    for _ in range(6):
        await created(agent.sandboxes)
    with held_points(tmp_path, "agent.pause.after_hold") as held:
        async with watching(agent, clock) as loss:
            fail_beats(loss, clock, 4)
            await until(lambda: states(agent).count(State.PAUSING) == 4)
            loss.contact()
            held.release()
            fail_beats(loss, clock, 1)  # another outage, which has just begun
            await until(lambda: State.PAUSING not in states(agent))
            await asyncio.sleep(0.2)
            assert states(agent) == [State.PAUSED] * 4 + [State.RUNNING] * 2
            assert (loss.outage.waited_s, loss.outage.paused) == (HEARTBEAT_S, 0)


async def test_the_next_agent_neither_forgets_the_outage_nor_pauses_before_a_heartbeat_failed(
    settings: Settings,
) -> None:
    clock = StoppedClock()
    async with running_agent(settings, ProcessHost()) as agent:
        spec, _ = await created(agent.sandboxes)
        async with watching(agent, clock) as loss:
            fail_beats(loss, clock, 3)
    clock.go(7200)  # no agent runs
    async with running_agent(settings, ProcessHost()) as agent, watching(agent, clock) as loss:
        await asyncio.sleep(0.1)
        assert states(agent) == [State.RUNNING]
        fail_beats(loss, clock, 1)
        await until(lambda: loss.outage.paused == 1)
        assert states(agent) == [State.PAUSED]
    async with running_agent(settings, ProcessHost()) as agent, watching(agent, clock) as loss:
        # Whoever resumed it has a control plane, though heartbeats still fail.
        await agent.sandboxes.resume(spec.sandbox_id)
        fail_beats(loss, clock, 3)
        await asyncio.sleep(0.1)
        assert states(agent) == [State.RUNNING]
        assert (loss.outage.is_lost, loss.outage.paused) == (True, 1)


async def test_a_sandbox_that_ends_meanwhile_is_not_tried_again(agent: Agent) -> None:
    clock = StoppedClock()
    spec, sandbox = await created(agent.sandboxes)
    arm_faults("agent.pause.after_journal=error")
    async with watching(agent, clock) as loss:
        fail_beats(loss, clock, 4)
        await asyncio.sleep(0.1)
        assert loss.outage.to_pause == (str(spec.sandbox_id),)
        await sandbox.vm.kill()
        await until(lambda: states(agent) == [State.LOST])
        await until(lambda: loss.outage.to_pause == ())
        assert loss.outage.paused == 0
