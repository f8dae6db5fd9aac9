"""What can be done to a sandbox, and what an agent finds that comes after another one."""

from __future__ import annotations

import asyncio
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.agent.kit import DEADLINE_S, assert_nothing_left, created, new_spec, output, until
from tests.held_points import held_points
from wrenn.agent.sandboxes import NetworkSettings, State
from wrenn.agent.sandboxes.remove_everything import remove_everything
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base.errors import Conflict, InvalidState, NotFound
from wrenn.base.faults import FaultInjected, arm_faults
from wrenn.base.ids import SnapshotId
from wrenn.linux.process import kill_and_wait
from wrenn.linux.threads import SAVES_AT_ONCE, run_to_end
from wrenn.network import EgressPolicy
from wrenn.network.simulated import LoopbackSlots
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.layers import LayerSeal
from wrenn.testing.simulated_agent import ProcessHost
from wrenn.vm.simulated.disks import FolderDisks


async def test_sandboxes_run_programs_side_by_side_and_leave_nothing(agent: Agent) -> None:
    (first, one), (second, two) = await asyncio.gather(
        created(agent.sandboxes, envs={"WHO": "one"}), created(agent.sandboxes, envs={"WHO": "two"})
    )
    for sandbox, who in ((one, "one"), (two, "two")):
        assert (
            await output(sandbox, "echo $WHO >/root/who; cat /root/who; echo $WRENN_SANDBOX")
            == f"{who}\ntrue\n"
        )
    assert one.address != two.address
    for spec in (first, second):
        await agent.sandboxes.remove(spec.sandbox_id)
    assert agent.sandboxes.list() == []
    await assert_nothing_left(agent)
    with pytest.raises(NotFound):
        agent.sandboxes.get(first.sandbox_id)


async def test_a_paused_sandbox_comes_back_with_its_files_and_without_its_programs(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    await output(sandbox, "echo kept >/root/file; (setsid sleep 1000 >/dev/null 2>&1 &)")
    record = await agent.sandboxes.pause(spec.sandbox_id)
    assert record.state is State.PAUSED
    assert agent.parts.confiner.names() == []
    with pytest.raises(InvalidState, match="paused"):
        agent.sandboxes.get(spec.sandbox_id)
    await agent.sandboxes.resume(spec.sandbox_id)
    sandbox = agent.sandboxes.get(spec.sandbox_id)
    assert await output(sandbox, "cat /root/file; cat /proc/*/comm | grep -c sleep || true") == "kept\n0\n"
    await agent.sandboxes.remove(spec.sandbox_id)
    await assert_nothing_left(agent)


async def test_a_sandbox_runs_on_while_as_many_as_may_are_being_saved(agent: Agent, tmp_path: Path) -> None:
    sandboxes = [await created(agent.sandboxes) for _ in range(SAVES_AT_ONCE + 1)]
    with held_points(tmp_path, "agent.pause.after_freeze") as held:
        pauses = [asyncio.create_task(agent.sandboxes.pause(spec.sandbox_id)) for spec, _ in sandboxes]
        await until(
            lambda: (
                sum(record.state is State.PAUSING for record, _ in agent.sandboxes.list()) == SAVES_AT_ONCE
            )
        )
        (last,) = [record for record, _ in agent.sandboxes.list() if record.state is State.RUNNING]
        assert await output(agent.sandboxes.get(last.spec.sandbox_id), "echo it runs") == "it runs\n"
        held.release()
        await asyncio.gather(*pauses)
    assert {record.state for record, _ in agent.sandboxes.list()} == {State.PAUSED}


async def test_a_snapshot_of_a_running_sandbox_can_be_cloned(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    await output(sandbox, "echo one >/root/file")
    snapshot_id = SnapshotId.new()
    await agent.sandboxes.ensure_snapshot(spec.sandbox_id, snapshot_id)
    await output(sandbox, "echo two >/root/file")
    copies = [await created(agent.sandboxes, snapshot_id=str(snapshot_id)) for _ in range(2)]
    for _, copy in copies:
        assert await output(copy, "cat /root/file") == "one\n"
    assert await output(sandbox, "cat /root/file") == "two\n"
    agent.sandboxes.remove_snapshot(snapshot_id)
    for removed, _ in (*copies, (spec, sandbox)):
        await agent.sandboxes.remove(removed.sandbox_id)
    await assert_nothing_left(agent)
    assert agent.parts.driver.disks.list_ids() == []


async def test_a_snapshot_of_a_paused_sandbox_can_be_taken(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    await output(sandbox, "echo one >/root/file")
    await agent.sandboxes.pause(spec.sandbox_id)
    snapshot_id = SnapshotId.new()
    await agent.sandboxes.ensure_snapshot(spec.sandbox_id, snapshot_id)
    await agent.sandboxes.remove(spec.sandbox_id)
    _, copy = await created(agent.sandboxes, snapshot_id=str(snapshot_id))
    assert await output(copy, "cat /root/file") == "one\n"


async def test_a_snapshot_is_checked_beside_the_loop_and_is_not_collected_meanwhile(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, sandbox = await created(agent.sandboxes)
    await output(sandbox, "echo one >/root/file")
    snapshot_id = SnapshotId.new()
    await agent.sandboxes.ensure_snapshot(spec.sandbox_id, snapshot_id)
    await agent.sandboxes.remove(spec.sandbox_id)
    await assert_nothing_left(agent)
    check, begun, go_on = FolderDisks.check, threading.Event(), threading.Event()

    def slow_check(disks: FolderDisks, expected: LayerSeal) -> None:
        begun.set()
        assert go_on.wait(DEADLINE_S), "the loop stands still"
        check(disks, expected)

    monkeypatch.setattr(FolderDisks, "check", slow_check)
    creating = asyncio.create_task(created(agent.sandboxes, snapshot_id=str(snapshot_id)))
    await until(begun.is_set)
    agent.sandboxes.remove_snapshot(snapshot_id)
    # It rests between two collections; nothing says that one was skipped.
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await until(lambda: str(snapshot_id) not in snapshots.snapshot_ids(agent.layout.snapshots))
    go_on.set()
    _, copy = await creating
    assert await output(copy, "cat /root/file") == "one\n"


async def test_what_a_deleted_host_has_is_removed_though_a_removal_fails(agent: Agent) -> None:
    made = [(await created(agent.sandboxes))[0] for _ in range(2)]
    await agent.sandboxes.ensure_snapshot(made[0].sandbox_id, SnapshotId.new())
    arm_faults(
        "agent.delete.after_kill#1=error,agent.delete.after_kill#2=error,agent.delete.after_network#1=enospc"
    )
    removed: list[None] = []
    await remove_everything(agent.sandboxes, removed=lambda: removed.append(None))
    assert len(removed) == 3
    assert not agent.sandboxes.list()
    assert not agent.sandboxes.list_snapshot_ids()
    await assert_nothing_left(agent)


async def test_sandboxes_outlive_their_agent(settings: Settings) -> None:
    async with running_agent(settings, ProcessHost()) as agent:
        spec, sandbox = await created(agent.sandboxes)
        paused, other = await created(agent.sandboxes)
        await output(other, "echo kept >/root/file")
        await agent.sandboxes.pause(paused.sandbox_id)
        pid = await output(sandbox, "sleep 1000 >/dev/null 2>&1 & echo $!")
        await agent.sandboxes.set_network(
            spec.sandbox_id, NetworkSettings(EgressPolicy(allow_internet=False), 3)
        )
        with pytest.raises(Conflict, match="already runs"):
            async with running_agent(settings, ProcessHost()):
                pass
    async with running_agent(settings, ProcessHost()) as agent:
        again = agent.sandboxes.get(spec.sandbox_id)
        assert again.address == sandbox.address
        assert await output(again, f"cat /proc/{pid.strip()}/comm") == "sleep\n"
        assert isinstance(agent.parts.slots, LoopbackSlots)
        assert list(agent.parts.slots.policies.values()) == [EgressPolicy(allow_internet=False)]
        await agent.sandboxes.resume(paused.sandbox_id)
        assert await output(agent.sandboxes.get(paused.sandbox_id), "cat /root/file") == "kept\n"
        await assert_nothing_left(agent)


async def test_a_policy_that_cannot_be_applied_at_adoption_is_requested_again(
    settings: Settings,
) -> None:
    policy = EgressPolicy(allow_internet=False)
    async with running_agent(settings, ProcessHost()) as agent:
        spec, _ = await created(agent.sandboxes)
        await agent.sandboxes.set_network(spec.sandbox_id, NetworkSettings(policy, 3))
    arm_faults("network.egress.before=error")
    async with running_agent(settings, ProcessHost()) as agent:
        record, running = agent.sandboxes.inspect(spec.sandbox_id)
        assert (record.state, record.network) == (State.RUNNING, NetworkSettings(policy, 0))
        assert running is not None
        arm_faults("")
        # The control plane sees the older revision, and sends the policy again.
        await agent.sandboxes.set_network(spec.sandbox_id, NetworkSettings(policy, 3))
        assert isinstance(agent.parts.slots, LoopbackSlots)
        assert list(agent.parts.slots.policies.values()) == [policy]


async def test_a_sandbox_whose_guest_ends_is_lost_or_paused_as_it_was(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    paused_once, other = await created(agent.sandboxes)
    await output(other, "echo then >/root/file")
    await agent.sandboxes.pause(paused_once.sandbox_id)
    await agent.sandboxes.resume(paused_once.sandbox_id)
    other = agent.sandboxes.get(paused_once.sandbox_id)
    await output(other, "echo since >/root/file")
    for running in (sandbox, other):
        running.vm.handle.process.kill()
    await until(lambda: all(running is None for _, running in agent.sandboxes.list()))
    states = {record.spec.sandbox_id: record.state for record, _ in agent.sandboxes.list()}
    assert states == {spec.sandbox_id: State.LOST, paused_once.sandbox_id: State.PAUSED}
    await agent.sandboxes.resume(paused_once.sandbox_id)
    assert await output(agent.sandboxes.get(paused_once.sandbox_id), "cat /root/file") == "then\n"


async def test_a_guest_that_ended_while_no_agent_ran_is_found(settings: Settings) -> None:
    async with running_agent(settings, ProcessHost()) as agent:
        spec, sandbox = await created(agent.sandboxes)
    await kill_and_wait(sandbox.vm.handle.process, timeout_s=DEADLINE_S)
    async with running_agent(settings, ProcessHost()) as agent:
        ((record, running),) = agent.sandboxes.list()
        assert (record.state, running) == (State.LOST, None)
        await agent.sandboxes.remove(spec.sandbox_id)
        await assert_nothing_left(agent)


async def test_a_removal_does_not_wait_for_the_guest(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    await sandbox.vm.suspend()
    calling = asyncio.create_task(output(sandbox, "true"))
    async with asyncio.timeout(5):
        await agent.sandboxes.remove(spec.sandbox_id)
    calling.cancel()
    await asyncio.wait({calling})
    await assert_nothing_left(agent)


async def test_a_vm_suspended_without_reason_is_unsuspended(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    await sandbox.vm.suspend()
    assert await output(sandbox, "echo on") == "on\n"  # the agent looks every two seconds


async def test_a_pause_whose_last_steps_failed_is_finished_without_being_asked(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    await output(sandbox, "echo kept >/root/file")
    arm_faults("agent.pause.after_kill=error")
    with pytest.raises(FaultInjected):
        await agent.sandboxes.pause(spec.sandbox_id)
    assert agent.sandboxes.inspect(spec.sandbox_id)[0].state is State.PAUSING
    arm_faults("agent.pause.after_release#1=error")  # it is tried again and again
    await until(lambda: agent.sandboxes.inspect(spec.sandbox_id)[0].state is State.PAUSED)
    record, running = agent.sandboxes.inspect(spec.sandbox_id)
    assert (record.slot, running) == (None, None)
    await agent.sandboxes.resume(spec.sandbox_id)
    assert await output(agent.sandboxes.get(spec.sandbox_id), "cat /root/file") == "kept\n"


async def test_flushes_do_not_take_the_threads_of_others(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandboxes = [(await created(agent.sandboxes))[0] for _ in range(5)]
    slow, flushing = threading.Event(), threading.Semaphore(0)

    def flush(_layer_ids: object) -> None:
        flushing.release()
        slow.wait(DEADLINE_S)

    monkeypatch.setattr(agent.parts.driver.disks, "flush", flush)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    try:
        for spec in sandboxes:
            await agent.sandboxes.pause(spec.sandbox_id)
        assert await run_to_end(partial(flushing.acquire, timeout=DEADLINE_S))
        settings = NetworkSettings(EgressPolicy(allow_internet=False), 1)
        async with asyncio.timeout(DEADLINE_S / 2):
            await asyncio.to_thread(int)
            await agent.sandboxes.set_network(sandboxes[-1].sandbox_id, settings)
    finally:
        slow.set()


async def test_a_larger_disk_is_recorded_and_a_smaller_one_refused(agent: Agent) -> None:
    spec, _ = await created(agent.sandboxes, disk_mb=8192)
    record = await agent.sandboxes.set_disk(spec.sandbox_id, 10_240)
    assert record.disk_mb == 10_240
    with pytest.raises(Exception, match="10240 MB"):
        await agent.sandboxes.set_disk(spec.sandbox_id, 9000)


async def test_a_damaged_layer_is_not_resumed(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    await output(sandbox, "echo kept >/root/file")
    record = await agent.sandboxes.pause(spec.sandbox_id)
    (agent.layout.layers / record.layers[0] / "root/file").write_text("other")
    with pytest.raises(DamagedSnapshot):
        await agent.sandboxes.resume(spec.sandbox_id)
    shutil.rmtree(agent.layout.layers / record.layers[0])
    with pytest.raises(DamagedSnapshot, match="missing"):
        await agent.sandboxes.resume(spec.sandbox_id)


async def test_an_unknown_template_is_not_found(agent: Agent) -> None:
    with pytest.raises(NotFound):
        await agent.sandboxes.ensure(new_spec(template="other"))
    await assert_nothing_left(agent)


async def test_a_program_that_ignores_signals_ends_with_its_sandbox(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    script = "trap '' TERM HUP INT; exec sleep 1000"
    await output(sandbox, f'(setsid sh -c "{script}" >/dev/null 2>&1 </dev/null &)')
    await agent.sandboxes.pause(spec.sandbox_id)
    assert not sandbox.vm.handle.process.is_alive()
