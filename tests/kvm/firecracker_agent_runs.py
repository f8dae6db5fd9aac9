"""Tests of a whole agent on Firecracker, in the host machine: `agent_tests.py` runs them by name."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.vm.kit import created, output
from wrenn.agent.sandboxes import State
from wrenn.agent.wiring import Agent
from wrenn.base.ids import SandboxId
from wrenn.vm.firecracker.disks import list_attached
from wrenn.vm.firecracker.machine import JAIL_NAME

_END_TIMEOUT_S = 30.0


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
