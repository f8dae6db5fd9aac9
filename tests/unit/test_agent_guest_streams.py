"""What a visitor's connection means for a running sandbox: its idle time, and what a pause waits for and cuts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import cast

import pytest

from wrenn.agent.sandboxes import RunningSandbox
from wrenn.agent.sandboxes.running import GuestStream
from wrenn.base.errors import InvalidState
from wrenn.base.secrets import Secret
from wrenn.guest import GuestConnection
from wrenn.linux.connections import reset_connections
from wrenn.vm import Machine

NOBODY = "192.0.2.1"
"""An address for documentation: no connection leads there."""


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time, UTC)

    def monotonic(self) -> float:
        return self.time


@pytest.fixture
async def running() -> AsyncIterator[RunningSandbox]:
    token = Secret("token")
    running = RunningSandbox(
        cast("Machine", None), NOBODY, token, GuestConnection(NOBODY, token), 1000.0, reset_connections
    )
    yield running
    await running.guest.close()
    await running.ports.close()


async def test_only_a_request_without_answer_and_traffic_are_use(running: RunningSandbox) -> None:
    clock = Clock()
    async with running.open_stream(clock) as stream:
        clock.time += 50
        assert running.idle_s(clock) == 0
        stream.mark_open(is_finite=True)
        assert running.idle_s(clock) == 50
        stream.mark_active()
        clock.time += 7
        assert running.idle_s(clock) == 7

        async def call() -> None:
            async with running.use(clock):
                assert running.idle_s(clock) == 0

        await asyncio.create_task(call())
        clock.time += 3
        assert running.idle_s(clock) == 3
    # That a silent connection ends is no use either.
    assert running.idle_s(clock) == 3
    async with running.open_stream(clock):
        clock.time += 5
    assert running.idle_s(clock) == 0


@pytest.mark.parametrize("is_finite", [True, False])
async def test_a_pause_waits_for_what_ends_and_cuts_the_rest(
    running: RunningSandbox, *, is_finite: bool
) -> None:
    opened, go_on = asyncio.Event(), asyncio.Event()
    guest_streams: list[GuestStream] = []

    async def visit() -> None:
        async with running.open_stream(Clock()) as stream:
            guest_streams.append(stream)
            stream.mark_open(is_finite=is_finite)
            opened.set()
            await go_on.wait()

    task = asyncio.create_task(visit())
    await opened.wait()
    draining = asyncio.create_task(running.drain("It is being paused.", grace_s=60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(InvalidState, match="being paused"):
        async with running.open_stream(Clock()):
            pass
    if is_finite:
        assert not draining.done()
        go_on.set()
        await task
    await draining
    await running.disconnect("The call was cut off.")
    if not is_finite:
        with pytest.raises(InvalidState, match="cut off"):
            await task
    assert running.ports is guest_streams[0].ports
