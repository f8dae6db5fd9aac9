"""The agent on a simulated host, one fault at a time, in virtual time: each test takes milliseconds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.agent.kit import leftovers
from wrenn.agent.sandboxes import RunningSandbox, SandboxSpec, State
from wrenn.agent.wiring import Agent
from wrenn.base.errors import AgentFailure, DeadlineExceeded, InvalidState, Unavailable, WrennError
from wrenn.base.faults import arm_faults
from wrenn.base.ids import SandboxId, SnapshotId
from wrenn.guest import CommandLine
from wrenn.testing import virtual_time
from wrenn.testing.simulation import GuestFaults, ProgramKilled, SimulatedAgent, World
from wrenn.vm import Shape

SPEC = SandboxSpec(SandboxId.new(), "team", "minimal", Shape(vcpus=1, memory_mb=128))
NAME = str(SPEC.sandbox_id)

Scene = Callable[[World, SimulatedAgent], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scene], None]:
    """Plays a scene with one agent, which has started."""

    def playing(scene: Scene) -> None:
        world = World(seed=1)

        async def main() -> None:
            agent = SimulatedAgent(world, tmp_path)
            await agent.start()
            await scene(world, agent)
            await agent.close()
            await world.close()

        virtual_time.run(main, world.new_loop)

    return playing


async def ensure(agent: Agent) -> RunningSandbox:
    await agent.sandboxes.ensure(SPEC)
    return agent.sandboxes.get(SPEC.sandbox_id)


async def run(agent: Agent, *command: str, timeout_s: float = 30) -> bytes:
    async with agent.sandboxes.use(SPEC.sandbox_id) as running:
        result = await running.commands.run(CommandLine(command[0], command[1:]), timeout_s=timeout_s)
    return result.stdout


def state(agent: Agent) -> State:
    return agent.sandboxes.inspect(SPEC.sandbox_id)[0].state


def test_memory_survives_a_pause_and_is_copied_by_a_snapshot(play: Callable[[Scene], None]) -> None:
    async def scene(world: World, agent: SimulatedAgent) -> None:
        copy, snapshot_id = SandboxId.new(), SnapshotId.new()

        async def step(agent: Agent) -> None:
            running = await ensure(agent)
            pid = await running.commands.start(CommandLine("sleep", ["100"]), tag="slow")
            await asyncio.sleep(60)
            await agent.sandboxes.pause(SPEC.sandbox_id)
            await asyncio.sleep(1000)  # no time for the program
            await agent.sandboxes.resume(SPEC.sandbox_id)
            running = agent.sandboxes.get(SPEC.sandbox_id)
            (process,) = await running.commands.list()
            assert (process.pid, process.tag) == (pid, "slow")
            await agent.sandboxes.ensure_snapshot(SPEC.sandbox_id, snapshot_id)
            await agent.sandboxes.ensure(
                SandboxSpec(copy, "team", "minimal", SPEC.shape, snapshot_id=str(snapshot_id))
            )
            clone = agent.sandboxes.get(copy)
            for commands in (running.commands, clone.commands):
                (process,) = await commands.list()
                assert process.pid == pid
            await running.commands.signal(pid, 9)
            assert await running.commands.list() == []
            await asyncio.sleep(30)
            assert len(await clone.commands.list()) == 1
            await asyncio.sleep(12)
            assert await clone.commands.list() == []

        await agent.call(step)

    play(scene)


@pytest.mark.parametrize("fault", ["does not boot", "is silent", "speaks rubbish", "dies"])
def test_a_create_with_a_bad_guest_fails_and_leaves_nothing(
    play: Callable[[Scene], None], fault: str
) -> None:
    async def scene(world: World, agent: SimulatedAgent) -> None:
        world.faults[NAME] = GuestFaults(
            boots=fault != "does not boot",
            is_silent=fault == "is silent",
            speaks_rubbish=fault == "speaks rubbish",
        )

        async def die() -> None:
            while fault == "dies" and world.groups.get(NAME) is None:
                await asyncio.sleep(0.001)
            world.kill_later(NAME, 0.01)

        dying = asyncio.create_task(die())
        with pytest.raises((AgentFailure, Unavailable)):
            await agent.call(ensure)
        await dying
        assert asyncio.get_running_loop().time() < 40
        await asyncio.sleep(10)
        assert leftovers(agent.agent()) == []
        assert world.machines == {}
        world.faults.clear()
        await agent.call(ensure)

    play(scene)


@pytest.mark.parametrize(
    "fault", [GuestFaults(is_silent=True), GuestFaults(speaks_rubbish=True), GuestFaults(late_s=20)]
)
def test_calls_to_a_guest_that_fails_end_in_time_and_it_can_be_used_again(
    play: Callable[[Scene], None], fault: GuestFaults
) -> None:
    async def scene(world: World, agent: SimulatedAgent) -> None:
        await agent.call(ensure)
        world.faults[NAME] = fault
        loop = asyncio.get_running_loop()
        for _ in range(5):
            began = loop.time()
            with pytest.raises(WrennError) as raised:
                await agent.call(lambda agent: run(agent, "echo", "hi", timeout_s=5))
            assert isinstance(raised.value, AgentFailure | DeadlineExceeded | Unavailable), raised.value
            assert loop.time() - began < 15
        world.faults.clear()
        assert await agent.call(lambda agent: run(agent, "echo", "hi")) == b"hi\n"

    play(scene)


def test_a_machine_that_dies_is_noticed_and_falls_back_to_its_last_pause(
    play: Callable[[Scene], None],
) -> None:
    async def scene(world: World, agent: SimulatedAgent) -> None:
        async def step(agent: Agent) -> None:
            await ensure(agent)
            await agent.sandboxes.pause(SPEC.sandbox_id)
            await agent.sandboxes.resume(SPEC.sandbox_id)
            sleeping = asyncio.create_task(run(agent, "sleep", "20"))
            await asyncio.sleep(1)
            world.kill_later(NAME, 2)
            with pytest.raises(InvalidState, match="ended by itself"):
                await sleeping
            assert asyncio.get_running_loop().time() < 5
            assert state(agent) is State.PAUSED
            await agent.sandboxes.resume(SPEC.sandbox_id)

        await agent.call(step)

    play(scene)


def test_an_agent_that_is_killed_leaves_its_sandboxes_to_the_next_one(play: Callable[[Scene], None]) -> None:
    async def scene(world: World, agent: SimulatedAgent) -> None:
        await agent.call(ensure)
        sleeping = asyncio.create_task(agent.call(lambda agent: run(agent, "sleep", "5")))
        await asyncio.sleep(1)
        agent.kill()
        with pytest.raises(ProgramKilled):
            await sleeping
        await agent.start()
        assert state(agent.agent()) is State.RUNNING
        assert await agent.call(lambda agent: run(agent, "echo", "hi")) == b"hi\n"

    play(scene)


def test_a_slot_is_free_again_if_the_agent_ends_while_it_notices_that_a_machine_died(
    play: Callable[[Scene], None],
) -> None:
    async def scene(world: World, agent: SimulatedAgent) -> None:
        async def prepare(agent: Agent) -> None:
            await ensure(agent)
            await agent.sandboxes.pause(SPEC.sandbox_id)
            await agent.sandboxes.resume(SPEC.sandbox_id)

        await agent.call(prepare)
        arm_faults("agent.pause.after_release=sleep:100")
        world.kill_later(NAME, 0)
        await asyncio.sleep(1)
        agent.kill()
        arm_faults("")
        await agent.start()
        assert state(agent.agent()) is State.PAUSED
        assert agent.agent().parts.slots.held == frozenset()
        await agent.call(lambda agent: agent.sandboxes.resume(SPEC.sandbox_id))
        await agent.call(lambda agent: agent.sandboxes.remove(SPEC.sandbox_id))
        await asyncio.sleep(10)
        assert leftovers(agent.agent()) == []

    play(scene)


def test_that_a_snapshot_is_removed_before_it_is_on_disk_is_no_failure(
    play: Callable[[Scene], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(world: World, agent: SimulatedAgent) -> None:
        async def step(agent: Agent) -> None:
            await ensure(agent)
            snapshot_id = SnapshotId.new()
            await agent.sandboxes.ensure_snapshot(SPEC.sandbox_id, snapshot_id)
            agent.sandboxes.remove_snapshot(snapshot_id)
            await agent.sandboxes.pause(SPEC.sandbox_id)
            await agent.sandboxes.remove(SPEC.sandbox_id)
            await asyncio.sleep(10)

        await agent.call(step)
        assert leftovers(agent.agent()) == []

    play(scene)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
