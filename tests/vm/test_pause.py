"""Pause and resume of real virtual machines: memory, processes, files, listening servers go on."""

from __future__ import annotations

import asyncio

import pytest

from tests.vm.kit import created, output, sh
from wrenn.agent.sandboxes import State
from wrenn.agent.wiring import Agent
from wrenn.base import errors as e
from wrenn.guest import CommandLine


async def test_processes_memory_and_files_go_on(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    counter = "import time\ni = 0\nwhile True:\n    i += 1\n    open('/dev/shm/count', 'w').write(str(i))\n    time.sleep(0.05)"
    await sandbox.commands.start(CommandLine("python3", ("-c", counter)), tag="counter")
    await output(sandbox, "head -c 3000000 /dev/urandom > /root/file; cp /root/file /dev/shm/file; sync")
    before = await output(sandbox, "sha256sum /root/file /dev/shm/file; hostname; sleep 0.3")
    await agent.sandboxes.pause(spec.sandbox_id)
    with pytest.raises(e.InvalidState):
        agent.sandboxes.get(spec.sandbox_id)
    record, _ = agent.sandboxes.look(spec.sandbox_id)
    assert (record.state, record.slot, record.process) == (State.PAUSED, None, None)
    await agent.sandboxes.resume(spec.sandbox_id)
    sandbox = agent.sandboxes.get(spec.sandbox_id)
    assert await output(sandbox, "sha256sum /root/file /dev/shm/file; hostname") == before
    first = int(await output(sandbox, "cat /dev/shm/count"))
    await asyncio.sleep(0.5)
    assert int(await output(sandbox, "cat /dev/shm/count")) > first
    assert [p.tag for p in await sandbox.commands.list()] == ["counter"]
