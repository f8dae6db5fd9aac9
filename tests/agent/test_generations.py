"""Of two copies of a sandbox the one with the lower generation gives way. Takes about 2 s."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.agent.kit import assert_nothing_left, new_spec, output
from wrenn.agent.sandboxes import State
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base.errors import StaleGeneration
from wrenn.testing.simulated_agent import ProcessHost


async def test_calls_for_another_generation_are_refused(agent: Agent) -> None:
    spec = replace(new_spec(), generation=3)
    sandboxes, name = agent.sandboxes, spec.sandbox_id
    await sandboxes.ensure(spec)
    for generation in (2, 4):
        with pytest.raises(StaleGeneration):
            await sandboxes.pause(name, generation=generation)
        with pytest.raises(StaleGeneration):
            await sandboxes.resume(name, generation=generation)
    with pytest.raises(StaleGeneration, match="has generation 3"):
        await sandboxes.ensure(replace(spec, generation=2))
    with pytest.raises(StaleGeneration):
        await sandboxes.remove(name, generation=2)
    assert sandboxes.get(name)
    # 0: of a control plane that knows no generations, or one that does not care.
    await sandboxes.ensure(replace(spec, generation=0))
    await sandboxes.pause(name, generation=3)
    assert (await sandboxes.resume(name)).state is State.RUNNING
    await sandboxes.remove(name, generation=4)
    await sandboxes.remove(name, generation=2)  # there is none any more
    await assert_nothing_left(agent)


async def test_a_newer_generation_replaces_the_older_one_and_outlives_the_agent(settings: Settings) -> None:
    spec = replace(new_spec(), generation=1)
    async with running_agent(settings, ProcessHost()) as agent:
        await agent.sandboxes.ensure(spec)
        await output(agent.sandboxes.get(spec.sandbox_id), "echo old >/root/file")
        await agent.sandboxes.ensure(replace(spec, generation=2))
        assert await output(agent.sandboxes.get(spec.sandbox_id), "cat /root/file || echo none") == "none\n"
        await assert_nothing_left(agent)
    async with running_agent(settings, ProcessHost()) as agent:
        record, _ = agent.sandboxes.inspect(spec.sandbox_id)
        assert (record.state, record.spec.generation) == (State.RUNNING, 2)
        with pytest.raises(StaleGeneration):
            await agent.sandboxes.ensure(spec)


async def test_one_of_an_unknown_generation_is_taken_for_the_right_one(agent: Agent) -> None:
    spec = new_spec()
    await agent.sandboxes.ensure(spec)
    await output(agent.sandboxes.get(spec.sandbox_id), "echo old >/root/file")
    await agent.sandboxes.ensure(replace(spec, generation=7))
    assert await output(agent.sandboxes.get(spec.sandbox_id), "cat /root/file") == "old\n"
    await agent.sandboxes.pause(spec.sandbox_id, generation=7)
    await agent.sandboxes.remove(spec.sandbox_id, generation=1)
    assert agent.sandboxes.list() == []
