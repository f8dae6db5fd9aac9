"""Input of a followed process, from the control plane's messages to the writes in the guest."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from wrenn.agent.rpc.process_input import InputForwarder
from wrenn.agent.rpc.websocket import PeerDisconnected, WebSocket
from wrenn.base.units import MIB
from wrenn.guest import FollowedProcess
from wrenn.protocol.host.streams import Kind


class Guest:
    """Takes what is written to the process, or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.written: list[int] = []
        self.closed = asyncio.Event()

    async def write(self, data: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.written.append(len(data))
        await asyncio.sleep(0)

    async def close_input(self) -> None:
        self.closed.set()


def forwarder(guest: Guest, messages: list[bytes], gone: asyncio.Event) -> InputForwarder:
    """The messages arrive at once; then the client waits, until it is gone."""

    async def receive() -> dict[str, Any]:
        if messages:
            return {"type": "websocket.receive", "bytes": messages.pop(0)}
        await gone.wait()
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(_message: object) -> None:
        raise AssertionError("nothing is sent")

    process = cast("FollowedProcess", guest)
    made = InputForwarder(process, WebSocket(cast("Any", receive), cast("Any", send)), lambda: None)
    made.begin.set()
    return made


async def test_a_write_that_fails_unexpectedly_ends_the_stream():
    guest = Guest(RuntimeError("a fault of ours"))
    run = forwarder(guest, [bytes([Kind.INPUT]) + b"x"], asyncio.Event()).run()
    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="a fault of ours"):
            await run


async def test_input_is_written_in_pieces_of_bounded_size_and_then_closed():
    guest, gone = Guest(), asyncio.Event()
    piece = bytes([Kind.INPUT]) + bytes(300_000)
    running = asyncio.create_task(forwarder(guest, [piece] * 20 + [bytes([Kind.CLOSE_INPUT])], gone).run())
    async with asyncio.timeout(5):
        await guest.closed.wait()
        gone.set()
        with pytest.raises(PeerDisconnected):
            await running
    assert sum(guest.written) == 20 * 300_000
    assert max(guest.written) <= MIB // 2
