"""A removal waits for nobody: not for the guest, not for its VMM, not for who is connected to it, not for another verb."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from tests.vm.kit import created, sh
from wrenn.agent.doctor import examine
from wrenn.agent.sandboxes import RunningSandbox
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent
from wrenn.base.errors import InvalidState, NotFound
from wrenn.base.ids import SnapshotId

REMOVED_WITHIN_S = 5.0
"""Longer than a removal takes on a busy machine, shorter than any of the waits that it must not join: 10 s and more."""


@contextmanager
def silent(sandbox: RunningSandbox) -> Generator[None]:
    """The VMM neither runs the guest nor answers on its control socket: the worst that a guest could bring it to."""
    pid = sandbox.vm.handle.process.pid
    os.kill(pid, signal.SIGSTOP)
    yield
    assert not sandbox.vm.handle.process.is_alive()


async def removed_soon(agent: Agent, sandbox: RunningSandbox) -> None:
    (spec,) = [record.spec for record, running in agent.sandboxes.list() if running is sandbox]
    async with asyncio.timeout(REMOVED_WITHIN_S):
        await agent.sandboxes.remove(spec.sandbox_id)
    with pytest.raises(NotFound):
        agent.sandboxes.inspect(spec.sandbox_id)


@pytest.mark.parametrize("verb", ["pause", "snapshot"])
async def test_a_removal_cancels_another_operation(agent: Agent, settings: Settings, verb: str) -> None:
    spec, sandbox = await created(agent.sandboxes)
    with silent(sandbox):
        if verb == "pause":
            work = asyncio.ensure_future(agent.sandboxes.pause(spec.sandbox_id))
        else:
            work = asyncio.ensure_future(agent.sandboxes.ensure_snapshot(spec.sandbox_id, SnapshotId.new()))
        done, _ = await asyncio.wait({work}, timeout=0.3)
        assert not done, "it waits for the VMM"
        await removed_soon(agent, sandbox)
        with pytest.raises(InvalidState, match="being removed"):
            await work
    assert (await examine(settings)).leftovers == []


async def test_a_removal_does_not_wait_for_connections(agent: Agent, settings: Settings) -> None:
    """An upload that the guest does not take, and a command that it does not answer, end with the sandbox."""
    spec, sandbox = await created(agent.sandboxes)

    async def upload() -> None:
        async def content():
            while True:
                yield bytes(1_000_000)

        async with agent.sandboxes.use(spec.sandbox_id) as running:
            await running.files.write("/root/endless", content(), user="root")

    async def command() -> None:
        async with agent.sandboxes.use(spec.sandbox_id) as running:
            await sh(running, "sleep 600", timeout_s=900)

    calls = [asyncio.create_task(upload()), asyncio.create_task(command())]
    done, _ = await asyncio.wait(calls, timeout=0.5)
    assert not done
    with silent(sandbox):
        await asyncio.wait(calls, timeout=0.2)
        await removed_soon(agent, sandbox)
        for call in calls:
            with pytest.raises(InvalidState, match="being removed"):
                await call
    assert (await examine(settings)).leftovers == []


async def test_calls_are_refused_as_soon_as_a_removal_begins(agent: Agent) -> None:
    spec, sandbox = await created(agent.sandboxes)
    removals = [asyncio.create_task(agent.sandboxes.remove(spec.sandbox_id)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(InvalidState, match="being removed"):
        agent.sandboxes.get(spec.sandbox_id)
    with pytest.raises(InvalidState, match="being removed"):
        await agent.sandboxes.ensure(spec)
    with pytest.raises(InvalidState, match="being removed"):
        await agent.sandboxes.pause(spec.sandbox_id)
    await asyncio.gather(*removals)
    assert not sandbox.vm.handle.process.is_alive()
