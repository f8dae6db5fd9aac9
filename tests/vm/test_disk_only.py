"""Pauses and snapshots without memory: the sandbox boots from its disk, with its files and without its processes."""

from __future__ import annotations

import pytest

from tests.vm.kit import created, output
from tests.vm.test_pause import COUNTER
from wrenn.agent.sandboxes import RunningSandbox, State
from wrenn.agent.wiring import Agent
from wrenn.base.errors import AgentFailure
from wrenn.base.faults import FaultInjected, arm_faults
from wrenn.base.ids import SandboxId, SnapshotId
from wrenn.guest import CommandLine
from wrenn.storage import snapshots

_BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


async def resumed(agent: Agent, sandbox_id: SandboxId, *, keep_memory: bool = True) -> RunningSandbox:
    await agent.sandboxes.resume(sandbox_id, keep_memory=keep_memory)
    return agent.sandboxes.get(sandbox_id)


async def test_a_sandbox_that_was_paused_without_memory_boots_with_its_files(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes, envs={"KEPT": "yes"})
    await sandbox.commands.start(CommandLine("python3", ("-c", COUNTER)), tag="counter")
    # Not flushed by the guest: the pause does that.
    written = await output(sandbox, "head -c 3000000 /dev/urandom > /root/file; sha256sum /root/file")
    before, hostname = await output(sandbox, _BOOT_ID), await output(sandbox, "hostname")
    record = await agent.sandboxes.pause(spec.sandbox_id, keep_memory=False)
    assert record.state is State.PAUSED
    saved = snapshots.find(agent.layout.snapshots, record.snapshot)
    assert not saved.manifest.has_memory
    assert saved.size_b < 100_000, "no memory is stored"

    sandbox = await resumed(agent, spec.sandbox_id)
    booted = await output(sandbox, _BOOT_ID)
    assert booted != before
    assert await output(sandbox, "sha256sum /root/file") == written
    assert await output(sandbox, "hostname; echo $KEPT") == f"{hostname}yes\n"
    assert [p.tag for p in await sandbox.commands.list() if p.tag] == []

    # Its memory is saved over the base's, as that of every sandbox, each time.
    for turn in range(3):
        await output(sandbox, f"echo memory {turn} > /dev/shm/file")
        await agent.sandboxes.pause(spec.sandbox_id)
        sandbox = await resumed(agent, spec.sandbox_id)
        assert await output(sandbox, f"{_BOOT_ID}; cat /dev/shm/file") == f"{booted}memory {turn}\n"

    # A pause with memory can be resumed without it. What was flushed is there.
    await output(sandbox, "echo more > /root/more; sync")
    await agent.sandboxes.pause(spec.sandbox_id)
    sandbox = await resumed(agent, spec.sandbox_id, keep_memory=False)
    assert await output(sandbox, "cat /root/more; ls /dev/shm") == "more\n"
    assert await output(sandbox, _BOOT_ID) != booted
    await agent.sandboxes.remove(spec.sandbox_id)


async def test_copies_of_a_snapshot_without_memory_boot_and_the_sandbox_goes_on(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    await output(sandbox, "echo one > /root/file; echo one > /dev/shm/file")
    before = await output(sandbox, _BOOT_ID)
    snapshot_id = SnapshotId.new()
    await agent.sandboxes.ensure_snapshot(spec.sandbox_id, snapshot_id, keep_memory=False)
    assert await output(sandbox, f"{_BOOT_ID}; cat /dev/shm/file") == f"{before}one\n"
    copied, copy = await created(agent.sandboxes, snapshot_id=str(snapshot_id))
    assert await output(copy, "cat /root/file; ls /dev/shm") == "one\n"
    assert await output(copy, _BOOT_ID) != before
    await output(copy, "echo two > /root/file; echo two > /dev/shm/file")
    await agent.sandboxes.pause(copied.sandbox_id)
    copy = await resumed(agent, copied.sandbox_id)
    assert await output(copy, "cat /root/file /dev/shm/file") == "two\ntwo\n"
    agent.sandboxes.remove_snapshot(snapshot_id)
    for removed in (spec, copied):
        await agent.sandboxes.remove(removed.sandbox_id)


@pytest.mark.parametrize("point", ["after_settle", "after_freeze"])
async def test_a_pause_without_memory_that_fails_leaves_the_sandbox_running(agent: Agent, point: str) -> None:
    spec, sandbox = await created(agent.sandboxes)
    before = await output(sandbox, f"{_BOOT_ID}; echo x > /dev/shm/file")
    arm_faults(f"agent.pause.{point}=error")
    try:
        with pytest.raises((FaultInjected, AgentFailure)):
            await agent.sandboxes.pause(spec.sandbox_id, keep_memory=False)
    finally:
        arm_faults("")
    assert (
        await output(agent.sandboxes.get(spec.sandbox_id), f"{_BOOT_ID}; cat /dev/shm/file") == f"{before}x\n"
    )
    await agent.sandboxes.remove(spec.sandbox_id)
