"""Pauses and power cuts: a sandbox is never without a pause that is on the disk, and goes back to it when the newer one is torn.

A power cut is played: the sandbox's VM is killed, its journal says another boot, and the files that were not flushed are altered.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from connectrpc.errors import ConnectError

from tests.agent.kit import assert_nothing_left, client_of, created, new_spec, output, until
from tests.held_points import held_points
from wrenn.agent.layout import Layout
from wrenn.agent.recovery.check_paused import WENT_BACK
from wrenn.agent.sandboxes import RunningSandbox, SandboxSpec, State
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base.errors import AgentFailure
from wrenn.base.faults import FaultInjected, arm_faults
from wrenn.base.ids import SandboxId
from wrenn.protocol.host import host_pb as pb
from wrenn.protocol.host.host_connect import HostAgentClient
from wrenn.testing.enrolment import issue_credentials
from wrenn.testing.simulated_agent import AgentProcess, ProcessHost

NO_FLUSH = "agent.flush.before_files=sleep:60"


@contextmanager
def faults(spec: str) -> Generator[None]:
    arm_faults(spec)
    try:
        yield
    finally:
        arm_faults("")


def last_pause(agent: Agent, sandbox_id: SandboxId) -> str:
    return agent.sandboxes.inspect(sandbox_id)[0].snapshot


def is_flushed(agent: Agent, sandbox_id: SandboxId) -> bool:
    return agent.sandboxes.inspect(sandbox_id)[0].is_flushed


async def paused_durably(agent: Agent, sandbox_id: SandboxId) -> str:
    """Pause, resume when it is on the disk, and return the snapshot."""
    await agent.sandboxes.pause(sandbox_id)
    await until(lambda: is_flushed(agent, sandbox_id))
    await agent.sandboxes.resume(sandbox_id)
    return last_pause(agent, sandbox_id)


def cut_power(layout: Layout, spec: SandboxSpec, *, torn: str = "", running: RunningSandbox | None) -> None:
    """As it is after the machine has booted again: no VM, and the snapshot `torn` is not what was saved."""
    if running is not None:
        running.vm.handle.process.kill()
    for path in layout.sandbox(spec.sandbox_id).glob("journal*.json"):
        fields = json.loads(path.read_text())
        if fields["unflushed_boot"]:
            fields["unflushed_boot"] = "the boot before"
        path.write_text(json.dumps(fields))
    if torn:
        (layout.snapshots / torn / "state").write_bytes(b"")


async def test_the_pause_before_is_there_until_a_newer_one_is_flushed(agent: Agent) -> None:
    spec, _ = await created(agent.sandboxes)
    durable = await paused_durably(agent, spec.sandbox_id)
    with faults("agent.flush.before_files=sleep:1"):
        await agent.sandboxes.pause(spec.sandbox_id)
        newer = last_pause(agent, spec.sandbox_id)
        await agent.sandboxes.resume(spec.sandbox_id)
        pausing = asyncio.create_task(agent.sandboxes.pause(spec.sandbox_id))
        durable_journal = agent.layout.sandbox(spec.sandbox_id) / "journal.durable.json"
        while json.loads(durable_journal.read_text())["snapshot"] == durable:
            agent.sandboxes.collect_garbage()
            assert (agent.layout.snapshots / durable).exists()
            await asyncio.sleep(0.01)
        record = await pausing
    assert record.former_snapshot == newer, "which is on the disk by now"
    assert (agent.layout.snapshots / newer).exists()
    await until(lambda: not (agent.layout.snapshots / newer).exists())
    assert is_flushed(agent, spec.sandbox_id)
    await agent.sandboxes.remove(spec.sandbox_id)
    await assert_nothing_left(agent)


async def test_a_pause_fails_if_the_disk_did_not_take_the_one_before(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    durable = await paused_durably(agent, spec.sandbox_id)
    with faults("agent.flush.before_files=enospc"):
        await agent.sandboxes.pause(spec.sandbox_id)
        await agent.sandboxes.resume(spec.sandbox_id)
        with pytest.raises(AgentFailure, match="keeps running"):
            await agent.sandboxes.pause(spec.sandbox_id)
        sandbox = agent.sandboxes.get(spec.sandbox_id)
        assert await output(sandbox, "echo on") == "on\n"
        assert (agent.layout.snapshots / durable).exists()
    await agent.sandboxes.pause(spec.sandbox_id)
    await until(lambda: is_flushed(agent, spec.sandbox_id))


async def test_a_pause_over_a_damaged_one_keeps_the_one_before_that(agent: Agent, tmp_path: Path) -> None:
    spec, _ = await created(agent.sandboxes)
    durable = await paused_durably(agent, spec.sandbox_id)
    with held_points(tmp_path, "agent.flush.before_files") as held:
        await agent.sandboxes.pause(spec.sandbox_id)
        await agent.sandboxes.resume(spec.sandbox_id)
        (agent.layout.snapshots / last_pause(agent, spec.sandbox_id) / "manifest.json").write_text("")
        held.release()
        record = await agent.sandboxes.pause(spec.sandbox_id)
    assert record.former_snapshot == durable


@pytest.mark.parametrize("state", ["paused", "running", "resuming", "pausing"])
async def test_after_a_power_cut_a_torn_pause_is_replaced_by_the_one_before(
    settings: Settings, state: str
) -> None:
    async with running_agent(settings, ProcessHost()) as agent:
        spec, sandbox = await created(agent.sandboxes)
        await output(sandbox, "echo first >/root/file")
        first = await paused_durably(agent, spec.sandbox_id)
        await output(agent.sandboxes.get(spec.sandbox_id), "echo second >/root/file")
        running: RunningSandbox | None = None
        with faults(f"{NO_FLUSH},agent.pause.after_manifest={'error' if state == 'pausing' else 'sleep:0'}"):
            if state == "pausing":
                with pytest.raises(FaultInjected):
                    await agent.sandboxes.pause(spec.sandbox_id)
            else:
                await agent.sandboxes.pause(spec.sandbox_id)
            if state in ("running", "resuming"):
                await agent.sandboxes.resume(spec.sandbox_id)
        record, running = agent.sandboxes.inspect(spec.sandbox_id)
        assert (record.former_snapshot, record.is_flushed) == (first, False)
    journal = agent.layout.sandbox(spec.sandbox_id) / "journal.json"
    if state == "resuming":
        journal.write_text(json.dumps({**json.loads(journal.read_text()), "state": "resuming"}))
    cut_power(agent.layout, spec, torn=record.snapshot, running=running)
    async with running_agent(settings, ProcessHost()) as agent:
        record, running = agent.sandboxes.inspect(spec.sandbox_id)
        assert (record.state, record.snapshot, record.reason) == (State.PAUSED, first, WENT_BACK)
        assert running is None
        await agent.sandboxes.resume(spec.sandbox_id)
        assert await output(agent.sandboxes.get(spec.sandbox_id), "cat /root/file") == "first\n"
        await agent.sandboxes.remove(spec.sandbox_id)
        await assert_nothing_left(agent)


async def test_after_a_power_cut_a_whole_pause_that_was_not_flushed_is_still_the_last_one(
    settings: Settings,
) -> None:
    async with running_agent(settings, ProcessHost()) as agent:
        spec, _ = await created(agent.sandboxes)
        first = await paused_durably(agent, spec.sandbox_id)
        await output(agent.sandboxes.get(spec.sandbox_id), "echo second >/root/file")
        with faults(NO_FLUSH):
            second = (await agent.sandboxes.pause(spec.sandbox_id)).snapshot
            await agent.sandboxes.resume(spec.sandbox_id)
        _, running = agent.sandboxes.inspect(spec.sandbox_id)
    cut_power(agent.layout, spec, running=running)
    async with running_agent(settings, ProcessHost()) as agent:
        assert last_pause(agent, spec.sandbox_id) == second
        await until(lambda: not (agent.layout.snapshots / first).exists())
        assert is_flushed(agent, spec.sandbox_id)
        await agent.sandboxes.resume(spec.sandbox_id)
        assert await output(agent.sandboxes.get(spec.sandbox_id), "cat /root/file") == "second\n"


async def test_until_it_is_known_whether_processes_are_frozen_the_journal_says_that_they_are_not(
    agent: Agent,
) -> None:
    spec, _ = await created(agent.sandboxes)
    journal = agent.layout.sandbox(spec.sandbox_id) / "journal.json"
    with faults("agent.pause.after_journal=sleep:0.5"):
        pausing = asyncio.create_task(agent.sandboxes.pause(spec.sandbox_id))
        await until(lambda: json.loads(journal.read_text())["state"] == "pausing")
        assert json.loads(journal.read_text())["held"] is False
        await pausing
    with faults("agent.pause.after_manifest=error"):
        await agent.sandboxes.resume(spec.sandbox_id)
        with pytest.raises(FaultInjected):
            await agent.sandboxes.pause(spec.sandbox_id)
    assert json.loads(journal.read_text())["held"] is True, "also if the agent is killed now"


@pytest.mark.parametrize("content", [b"", bytes(900)])
async def test_an_empty_journal_is_replaced_by_the_durable_one_after_a_power_cut(
    settings: Settings, content: bytes
) -> None:
    async with running_agent(settings, ProcessHost()) as agent:
        spec, sandbox = await created(agent.sandboxes)
        await output(sandbox, "echo kept >/root/file")
        await paused_durably(agent, spec.sandbox_id)
        other, _ = await created(agent.sandboxes)  # has a slot of its own
        _, running = agent.sandboxes.inspect(spec.sandbox_id)
    cut_power(agent.layout, spec, running=running)
    (agent.layout.sandbox(spec.sandbox_id) / "journal.json").write_bytes(content)
    async with running_agent(settings, ProcessHost()) as agent:
        assert {r.spec.sandbox_id: r.state for r, _ in agent.sandboxes.list()} == {
            spec.sandbox_id: State.PAUSED,
            other.sandbox_id: State.RUNNING,
        }
        await agent.sandboxes.resume(spec.sandbox_id)
        assert await output(agent.sandboxes.get(spec.sandbox_id), "cat /root/file") == "kept\n"


async def test_a_journal_that_is_damaged_otherwise_is_left_to_be_repaired(settings: Settings) -> None:
    async with running_agent(settings, ProcessHost()) as agent:
        spec, _ = await created(agent.sandboxes)
        await paused_durably(agent, spec.sandbox_id)
    journal = agent.layout.sandbox(spec.sandbox_id) / "journal.json"
    content = journal.read_bytes()
    journal.write_bytes(content[:-10])
    async with running_agent(settings, ProcessHost()) as agent:
        assert agent.sandboxes.list() == []
    journal.write_bytes(content)
    async with running_agent(settings, ProcessHost()) as agent:
        assert agent.sandboxes.inspect(spec.sandbox_id)[0].state is State.PAUSED
        await agent.sandboxes.remove(spec.sandbox_id)
        await assert_nothing_left(agent)


async def pause_twice(host: HostAgentClient, sandbox_id: str) -> None:
    """The second pause waits for the flush of the first."""
    await host.pause_sandbox(pb.PauseSandboxRequest(sandbox_id=sandbox_id))
    await host.resume_sandbox(pb.ResumeSandboxRequest(sandbox_id=sandbox_id))
    await host.pause_sandbox(pb.PauseSandboxRequest(sandbox_id=sandbox_id))


@pytest.mark.parametrize("point", ["agent.flush.before_files", "agent.flush.after_journal"])
async def test_an_agent_killed_during_a_flush_loses_nothing(
    data_dir: Path, settings: Settings, pki: Path, point: str
) -> None:
    process = AgentProcess(data_dir)
    issue_credentials(data_dir, pki, process.address)
    spec = new_spec()
    async with running_agent(settings, ProcessHost()) as agent:
        await agent.sandboxes.ensure(spec)
        await output(agent.sandboxes.get(spec.sandbox_id), "echo held >/root/held")
        await paused_durably(agent, spec.sandbox_id)
    try:
        await process.start(faults=f"{point}=kill")
        with pytest.raises(ConnectError):
            await pause_twice(client_of(process.url, pki), str(spec.sandbox_id))
        await process.wait_killed()
    finally:
        await process.kill()
    async with running_agent(settings, ProcessHost()) as agent:
        if agent.sandboxes.inspect(spec.sandbox_id)[0].state is State.PAUSED:
            await agent.sandboxes.resume(spec.sandbox_id)
        assert await output(agent.sandboxes.get(spec.sandbox_id), "cat /root/held") == "held\n"
        await until(lambda: is_flushed(agent, spec.sandbox_id))
        await assert_nothing_left(agent)
