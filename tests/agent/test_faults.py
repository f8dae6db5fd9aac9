"""A fault at every named step of every verb: the sandbox is as before the call or as after it, and nothing is left over.

In process: the step raises, as where a call of the kernel fails. As a separate process: the agent is killed there, and another one
takes over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from connectrpc.errors import ConnectError

from tests.agent.kit import assert_nothing_left, client_of, created, new_spec, output
from wrenn.agent.doctor.stored_files import find_stored_files
from wrenn.agent.sandboxes import SandboxSpec, State
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base.faults import FaultInjected, arm_faults
from wrenn.base.ids import SandboxId, SnapshotId
from wrenn.protocol.host import host_pb as pb
from wrenn.protocol.host.host_connect import HostAgentClient
from wrenn.testing.enrolment import issue_credentials
from wrenn.testing.simulated_agent import AgentProcess, ProcessHost

POINTS = [
    "create.after_journal", "create.after_slot", "create.after_disk", "create.after_spawn", "create.after_ready", "create.after_running",
    "delete.after_journal", "delete.after_kill", "delete.after_network",
    "pause.after_journal", "pause.after_hold", "pause.after_settle", "pause.after_freeze", "pause.after_memory", "pause.after_state", "pause.after_manifest", "pause.after_kill", "pause.after_release", "pause.after_paused",
    "resume.after_journal", "resume.after_slot", "resume.after_disk", "resume.after_spawn", "resume.after_ready", "resume.after_running",
    "snapshot.after_draft", "snapshot.after_hold", "snapshot.after_settle", "snapshot.after_freeze", "snapshot.after_memory", "snapshot.after_state", "snapshot.after_overlay", "snapshot.after_thaw", "snapshot.after_manifest",
]  # fmt: skip


def keeps_memory(point: str) -> bool:
    """Whether the operation in which the point is saves the memory."""
    return not point.endswith("after_settle")


async def call(agent: Agent, verb: str, spec: SandboxSpec, *, keep_memory: bool) -> None:
    match verb:
        case "create":
            await agent.sandboxes.ensure(spec)
        case "delete":
            await agent.sandboxes.remove(spec.sandbox_id)
        case "pause":
            await agent.sandboxes.pause(spec.sandbox_id, keep_memory=keep_memory)
        case "resume":
            await agent.sandboxes.resume(spec.sandbox_id)
        case _:
            await agent.sandboxes.ensure_snapshot(spec.sandbox_id, SnapshotId.new(), keep_memory=keep_memory)


async def assert_usable(agent: Agent, sandbox_id: SandboxId) -> None:
    record, _ = agent.sandboxes.inspect(sandbox_id)
    if record.state is State.PAUSED:
        await agent.sandboxes.resume(sandbox_id)
    sandbox = agent.sandboxes.get(sandbox_id)
    assert (
        await output(sandbox, "cat /root/held; echo more >>/root/more; tail -n 1 /root/more")
        == "held\nmore\n"
    )


@pytest.mark.parametrize("point", POINTS)
async def test_a_step_that_fails_is_undone_or_completed(agent: Agent, point: str) -> None:
    verb = point.partition(".")[0]
    spec = new_spec()
    if verb != "create":
        spec, sandbox = await created(agent.sandboxes)
        await output(sandbox, "echo held >/root/held")
    if verb == "resume":
        await agent.sandboxes.pause(spec.sandbox_id)
    arm_faults(f"agent.{point}=error")
    with pytest.raises(FaultInjected):
        await call(agent, verb, spec, keep_memory=keeps_memory(point))
    arm_faults("")
    if verb in ("create", "delete"):
        await agent.sandboxes.remove(spec.sandbox_id)
        assert agent.sandboxes.list() == []
    else:
        record, _ = agent.sandboxes.inspect(spec.sandbox_id)
        if record.state is State.PAUSING:  # it is saved, and the rest went wrong
            await agent.sandboxes.pause(spec.sandbox_id)
        await assert_usable(agent, spec.sandbox_id)
    for kept in agent.sandboxes.list_snapshots():
        agent.sandboxes.remove_snapshot(SnapshotId.parse(kept.manifest.snapshot_id))
    await assert_nothing_left(agent)


async def call_over_rpc(host: HostAgentClient, verb: str, spec: SandboxSpec, *, drop_memory: bool) -> None:
    sandbox_id = str(spec.sandbox_id)
    match verb:
        case "create":
            wanted = pb.SandboxSpec(
                sandbox_id=sandbox_id,
                template=spec.template,
                vcpus=spec.shape.vcpus,
                memory_mb=spec.shape.memory_mb,
            )
            await host.ensure_sandbox(pb.EnsureSandboxRequest(sandbox=wanted))
        case "delete":
            await host.remove_sandbox(pb.RemoveSandboxRequest(sandbox_id=sandbox_id))
        case "pause":
            await host.pause_sandbox(pb.PauseSandboxRequest(sandbox_id=sandbox_id, drop_memory=drop_memory))
        case "resume":
            await host.resume_sandbox(pb.ResumeSandboxRequest(sandbox_id=sandbox_id))
        case _:
            request = pb.EnsureSnapshotRequest(
                sandbox_id=sandbox_id, snapshot_id=str(SnapshotId.new()), drop_memory=drop_memory
            )
            await host.ensure_snapshot(request)


@pytest.fixture
async def process(data_dir: Path, pki: Path) -> AsyncIterator[AgentProcess]:
    process = AgentProcess(data_dir)
    issue_credentials(data_dir, pki, process.address)
    yield process
    await process.kill()


@pytest.mark.parametrize("point", POINTS)
async def test_an_agent_killed_at_any_step_loses_nothing(
    process: AgentProcess, settings: Settings, pki: Path, point: str
) -> None:
    verb = point.partition(".")[0]
    spec = new_spec()
    # What was there before is made in this process: a program of its own takes a second to start.
    async with running_agent(settings, ProcessHost()) as agent:
        if verb != "create":
            await agent.sandboxes.ensure(spec)
            await output(agent.sandboxes.get(spec.sandbox_id), "echo held >/root/held")
        if verb == "resume":
            await agent.sandboxes.pause(spec.sandbox_id)
    await process.start(faults=f"agent.{point}=kill")
    host = client_of(process.url, pki)
    with pytest.raises(ConnectError):
        await call_over_rpc(host, verb, spec, drop_memory=not keeps_memory(point))
    await process.wait_killed()
    async with running_agent(settings, ProcessHost()) as agent:
        if verb in ("create", "delete"):
            for record, _ in agent.sandboxes.list():
                await agent.sandboxes.remove(record.spec.sandbox_id)
        else:
            await assert_usable(agent, spec.sandbox_id)
        for kept in agent.sandboxes.list_snapshots():
            agent.sandboxes.remove_snapshot(SnapshotId.parse(kept.manifest.snapshot_id))
        await assert_nothing_left(agent)


async def test_what_was_paused_without_memory_is_whole_after_a_kill_and_for_doctor(
    process: AgentProcess, settings: Settings, pki: Path
) -> None:
    spec = new_spec()
    async with running_agent(settings, ProcessHost()) as agent:
        await agent.sandboxes.ensure(spec)
        await output(agent.sandboxes.get(spec.sandbox_id), "echo held >/root/held")
        await agent.sandboxes.pause(spec.sandbox_id)
        await agent.sandboxes.resume(spec.sandbox_id)
    await process.start(faults="agent.pause.after_paused=kill")
    with pytest.raises(ConnectError):
        await call_over_rpc(client_of(process.url, pki), "pause", spec, drop_memory=True)
    await process.wait_killed()
    async with running_agent(settings, ProcessHost()) as agent:
        record, _ = agent.sandboxes.inspect(spec.sandbox_id)
        assert (record.state, record.slot, record.reason) == (State.PAUSED, None, "")
        missing = find_stored_files(agent.layout, [record]).missing
        assert [name for name in missing if name.startswith(f"{record.snapshot}/")] == []
        await agent.sandboxes.resume(spec.sandbox_id)
        await assert_usable(agent, spec.sandbox_id)
        await assert_nothing_left(agent)
