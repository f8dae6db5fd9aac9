"""What counts as activity in a sandbox, and how a pause cuts what is under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from wrenn.agent.sandboxes.running import RunningSandbox
from wrenn.base.clock import Clock
from wrenn.base.errors import InvalidState
from wrenn.base.secrets import Secret
from wrenn.guest import GuestConnection
from wrenn.guest.connect import ENVD_PORT
from wrenn.linux.connections import reset_connections
from wrenn.vm import Machine

ADDRESS = "127.83.71.9"


class StoppedClock:
    """Goes when it is told."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()

    def go(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
async def sandbox(clock: StoppedClock):
    # An address of its own: what is connected to the address of a sandbox is reset when the sandbox is cut off.
    guest = GuestConnection(ADDRESS, Secret("token"))
    yield RunningSandbox(
        vm=cast("Machine", None),
        address=ADDRESS,
        token=Secret("token"),
        guest=guest,
        last_active_at=clock.now().timestamp(),
        reset_connections=reset_connections,
    )
    await guest.close()


async def test_a_call_is_activity_from_its_begin_to_its_end(sandbox: RunningSandbox, clock: StoppedClock):
    async with sandbox.use(cast("Clock", clock)):
        clock.go(100)
        assert sandbox.idle_s(cast("Clock", clock)) == 0
    clock.go(5)
    assert sandbox.idle_s(cast("Clock", clock)) == 5


async def test_a_stream_that_only_looks_is_no_activity(sandbox: RunningSandbox, clock: StoppedClock):
    clock.go(7)
    async with sandbox.open_stream(cast("Clock", clock), counts_as_active=False):
        assert sandbox.idle_s(cast("Clock", clock)) == 7
    assert sandbox.idle_s(cast("Clock", clock)) == 7


async def test_what_is_attached_is_activity_only_while_it_moves(sandbox: RunningSandbox, clock: StoppedClock):
    clock.go(7)
    async with sandbox.open_stream(cast("Clock", clock)) as stream:
        stream.mark_open(is_finite=False)
        assert sandbox.idle_s(cast("Clock", clock)) == 0, "to attach is activity"
        clock.go(100)
        assert sandbox.idle_s(cast("Clock", clock)) == 100
        stream.mark_active()
        clock.go(3)
        assert sandbox.idle_s(cast("Clock", clock)) == 3
    clock.go(2)
    assert sandbox.idle_s(cast("Clock", clock)) == 5, "to leave is none"


async def test_who_only_looks_is_no_activity_and_is_cut_off_by_a_pause(
    sandbox: RunningSandbox, clock: StoppedClock
):
    begun = asyncio.Event()

    async def look() -> None:
        async with sandbox.observe(cast("Clock", clock)):
            begun.set()
            await asyncio.Event().wait()

    clock.go(7)
    looking = asyncio.create_task(look())
    await begun.wait()
    clock.go(5)
    assert sandbox.idle_s(cast("Clock", clock)) == 12
    async with asyncio.timeout(10):
        await sandbox.drain("It is being paused.", grace_s=1000)
        await sandbox.disconnect("It was paused.")
        with pytest.raises(InvalidState, match="It was paused"):
            await looking
    with pytest.raises(InvalidState, match="being paused"):
        async with sandbox.observe(cast("Clock", clock)):
            pass


async def test_a_call_beside_what_is_attached_counts(sandbox: RunningSandbox, clock: StoppedClock):
    async with sandbox.open_stream(cast("Clock", clock)) as stream:
        stream.mark_open(is_finite=False)
        begun, end = asyncio.Event(), asyncio.Event()

        async def call() -> None:
            async with sandbox.use(cast("Clock", clock)):
                begun.set()
                await end.wait()

        calling = asyncio.create_task(call())
        await begun.wait()
        clock.go(100)
        assert sandbox.idle_s(cast("Clock", clock)) == 0
        end.set()
        await calling


async def test_a_pause_cuts_what_is_attached_at_once(sandbox: RunningSandbox, clock: StoppedClock):
    begun = asyncio.Event()

    async def follow() -> None:
        async with sandbox.open_stream(cast("Clock", clock)) as stream:
            stream.mark_open(is_finite=False)
            begun.set()
            await asyncio.Event().wait()

    following = asyncio.create_task(follow())
    await begun.wait()
    async with asyncio.timeout(10):
        await sandbox.drain("It is being paused.", grace_s=1000)
    with pytest.raises(InvalidState, match="being paused"):
        async with sandbox.use(cast("Clock", clock)):
            pass
    await sandbox.disconnect("It is being removed. The call was cut off.")
    with pytest.raises(InvalidState, match="being removed"):
        await following


async def test_a_guest_that_takes_nothing_cannot_hold_up_the_cut(
    sandbox: RunningSandbox, clock: StoppedClock
):
    """To close a connection waits until the peer has read what was sent; this peer reads nothing."""
    connected = asyncio.Event()

    async def take_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cast("asyncio.Transport", writer.transport).pause_reading()
        connected.set()
        await over.wait()
        writer.transport.abort()
        ended.set()

    over, ended = asyncio.Event(), asyncio.Event()
    server = await asyncio.start_server(take_nothing, ADDRESS, ENVD_PORT, limit=1)

    async def content() -> AsyncGenerator[bytes]:
        while True:
            yield bytes(1_000_000)

    async def upload() -> None:
        async with sandbox.use(cast("Clock", clock)):
            await sandbox.files.write("/endless", content(), user="root")

    uploading = asyncio.create_task(upload())
    await connected.wait()
    async with asyncio.timeout(10):
        await sandbox.disconnect("It is being removed.")
        with pytest.raises(InvalidState, match="being removed"):
            await uploading
    over.set()
    await ended.wait()
    server.close()
