"""Tests of a whole agent on Firecracker, in the host machine: `agent_tests.py` runs them by name."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from unittest.mock import patch

from tests.vm.kit import created, output, sh
from wrenn.agent.sandboxes import State
from wrenn.agent.wiring import Agent
from wrenn.base.ids import SandboxId
from wrenn.base.units import MIB
from wrenn.linux.disk_space import free_b
from wrenn.vm.firecracker import cow_space, space_allocator
from wrenn.vm.firecracker.disks import list_attached
from wrenn.vm.firecracker.machine import JAIL_NAME
from wrenn.vm.firecracker.page_order import NUMBER_B, ORDER_NAME, RECORDED_NAME

_END_TIMEOUT_S = 30.0
_FULL_TIMEOUT_S = 90.0
_WRITEBACK_AGE = Path("/proc/sys/vm/dirty_expire_centisecs")
"""How long what a guest wrote is only in the page cache of the host."""
_RESERVE_B = 1024 * MIB
"""The default of `WRENN_DISK_RESERVE_MB`."""


async def _ended(agent: Agent, sandbox_id: SandboxId) -> State:
    """Wait until the agent has noticed that the machine has ended; return the sandbox's state."""
    async with asyncio.timeout(_END_TIMEOUT_S):
        while True:
            (state,) = [r.state for r, _ in agent.sandboxes.list() if r.spec.sandbox_id == sandbox_id]
            if state is not State.RUNNING:
                return state
            await asyncio.sleep(0.1)


def _left_over(agent: Agent) -> list[str]:
    """Devices of machines, loop devices of deleted layers, and jails."""
    loops = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    layers = [text for text in loops if str(agent.layout.layers) in text]
    jails = [str(path) for path in agent.layout.sandboxes.glob(f"*/{JAIL_NAME}")]
    return [*list_attached(agent.layout.cgroup_root), *layers, *jails]


async def machines_that_end_by_themselves_leave_nothing_while_the_agent_runs(agent: Agent) -> None:
    """A guest decides when it ends: it may do so again and again."""
    spec, sandbox = await created(agent.sandboxes)
    await output(sandbox, "echo kept >/root/file; sync")
    await agent.sandboxes.pause(spec.sandbox_id)
    for _ in range(2):
        await agent.sandboxes.resume(spec.sandbox_id)
        sandbox = agent.sandboxes.get(spec.sandbox_id)
        assert await output(sandbox, "cat /root/file") == "kept\n"
        assert _left_over(agent) != []
        await output(sandbox, "(sleep 0.5; echo b >/proc/sysrq-trigger) >/dev/null 2>&1 &")
        assert await _ended(agent, spec.sandbox_id) is State.PAUSED
        assert _left_over(agent) == []
    await agent.sandboxes.remove(spec.sandbox_id)

    spec, sandbox = await created(agent.sandboxes)
    sandbox.vm.handle.process.kill()
    assert await _ended(agent, spec.sandbox_id) is State.LOST
    assert _left_over(agent) == []
    await agent.sandboxes.remove(spec.sandbox_id)


async def a_resume_does_not_wait_for_what_the_one_before_needed(agent: Agent) -> None:
    """The pages that a guest needs until it answers are filled before it asks for them."""
    spec, sandbox = await created(agent.sandboxes)
    await output(sandbox, "head -c 3000000 /dev/urandom >/dev/shm/data")
    folder = agent.layout.sandbox(spec.sandbox_id)
    waited: list[int] = []
    for _ in range(3):
        await agent.sandboxes.pause(spec.sandbox_id)
        await agent.sandboxes.resume(spec.sandbox_id)
        waited.append((folder / RECORDED_NAME).stat().st_size // NUMBER_B)
    assert (folder / ORDER_NAME).stat().st_size > 0
    print(f"chunks of memory that a resume waited for: {waited}")
    assert waited[0] > 20
    # Who resumes a guest on a busy machine cannot be sure that each page is there in time.
    assert max(waited[1:]) <= waited[0] / 2, waited
    assert min(waited[1:]) <= waited[0] / 5, waited
    # An order that makes no sense is no obstacle, and a boot forgets it: the memory is laid out anew.
    (folder / ORDER_NAME).write_bytes(b"\xff" * 1001)
    await agent.sandboxes.pause(spec.sandbox_id)
    await agent.sandboxes.resume(spec.sandbox_id)
    sandbox = agent.sandboxes.get(spec.sandbox_id)
    assert await output(sandbox, "stat -c %s /dev/shm/data") == "3000000\n"
    await agent.sandboxes.pause(spec.sandbox_id)
    await agent.sandboxes.resume(spec.sandbox_id, keep_memory=False)
    assert not (folder / ORDER_NAME).exists()
    await agent.sandboxes.remove(spec.sandbox_id)


async def a_guest_whose_host_is_full_waits_and_loses_nothing(agent: Agent) -> None:
    with patch.object(space_allocator, "_MOST_AHEAD_B", cow_space.FIRST_B):
        await _fill_host_while_guest_writes(agent)


async def _fill_host_while_guest_writes(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    filler = agent.layout.data_dir / "filler"
    usual_age = _WRITEBACK_AGE.read_text()
    _WRITEBACK_AGE.write_text("100")
    try:
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free_b(filler.parent) - _RESERVE_B - 8 * MIB)
        script = "head -c 40000000 /dev/urandom >/root/big; sync; md5sum </root/big"
        writing = asyncio.create_task(sh(sandbox, script, timeout_s=200))
        async with asyncio.timeout(_FULL_TIMEOUT_S):
            while not sandbox.suspend_reason:
                # The guest may have written all by then: the host's page cache has it, and waits.
                await asyncio.sleep(0.05)
        assert "host is full" in sandbox.suspend_reason
    finally:
        filler.unlink()
        _WRITEBACK_AGE.write_text(usual_age)
    result = await writing
    assert result.exit_code == 0, result
    await agent.sandboxes.pause(spec.sandbox_id)
    await agent.sandboxes.resume(spec.sandbox_id)
    sandbox = agent.sandboxes.get(spec.sandbox_id)
    script = "echo 3 >/proc/sys/vm/drop_caches; md5sum </root/big"
    assert (await sh(sandbox, script, timeout_s=200)).stdout == result.stdout
    await agent.sandboxes.remove(spec.sandbox_id)
