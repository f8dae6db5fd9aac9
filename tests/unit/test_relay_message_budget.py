"""Messages of WebSockets that are not whole: a budget for all of them, and an end of waiting."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.unit.test_relay_pace import Visitor, flood, ports, upgraded
from wrenn.relay import SERVER_OPTIONS, message_budget
from wrenn.relay.message_budget import FREE_B, IncompleteMessage, MessageBudget
from wrenn.relay.sockets import ABNORMAL

LONG_B = 4 * 1024 * 1024


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> MessageBudget:
    """Of this test, in place of the process's."""
    made = MessageBudget(3 * LONG_B)
    monkeypatch.setattr(IncompleteMessage.__init__, "__defaults__", (made,))
    return made


@asynccontextmanager
async def serving() -> AsyncGenerator[str]:
    """A server that counts the bytes of each message."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": str(len(message.get("bytes") or message["text"]))})

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, **SERVER_OPTIONS))
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        await task
        listener.close()


async def begin(url: str) -> Any:
    """A connection with all but the last bytes of a long message sent."""
    client = await connect(url, proxy=None, compression=None, ping_interval=None)
    head = b"\x82\xff" + struct.pack(">Q", LONG_B) + bytes(4)
    client.transport.write(head + bytes(LONG_B - 100))
    return client


async def test_clients_that_end_no_message_find_a_bound_and_others_are_served(budget: MessageBudget) -> None:
    async with serving() as url, asyncio.timeout(30):
        held = [await begin(url) for _ in range(6)]
        ends = [asyncio.create_task(client.wait_closed()) for client in held]
        while sum(end.done() for end in ends) < 6 - 3:
            await asyncio.sleep(0.01)
        # Those that are left have room.
        while budget.held_b < 3 * (LONG_B - FREE_B - 100):
            await asyncio.sleep(0.01)
        assert sum(end.done() for end in ends) == 6 - 3
        assert budget.held_b <= 3 * LONG_B
        async with connect(url, proxy=None) as other:
            await other.send(bytes(FREE_B // 2))
            assert await other.recv() == str(FREE_B // 2)
        for client in held:
            client.transport.abort()
        await asyncio.gather(*ends)
        while budget.held_b:
            await asyncio.sleep(0.01)
        async with connect(url, proxy=None) as other:
            for _ in range(5):
                await other.send(bytes(LONG_B))
                assert await other.recv() == str(LONG_B)
        assert budget.held_b == 0


async def test_who_holds_messages_back_does_not_keep_others_from_sending_theirs(
    budget: MessageBudget,
) -> None:
    async with serving() as url, asyncio.timeout(30):
        held = [await begin(url) for _ in range(3)]
        while budget.held_b < 3 * (LONG_B - FREE_B - 100):
            await asyncio.sleep(0.01)
        async with connect(url, proxy=None) as other:
            for _ in range(3):
                await other.send(bytes(LONG_B))
                assert await other.recv() == str(LONG_B)
        with pytest.raises(ConnectionClosed):
            await held[0].recv()
        assert held[0].close_code == 1013, "the oldest"
        for client in held[1:]:
            client.transport.write(bytes(100))
            assert await client.recv() == str(LONG_B), "the others have enough"
            await client.close()


async def test_a_message_that_is_never_whole_is_not_waited_for_for_ever(
    budget: MessageBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_budget, "UNFINISHED_TIMEOUT_S", 0.3)
    async with serving() as url, asyncio.timeout(30):
        client = await begin(url)
        with pytest.raises(ConnectionClosed):
            await client.recv()
        while budget.held_b:
            await asyncio.sleep(0.01)


async def test_a_program_that_ends_no_message_finds_the_bound_too(budget: MessageBudget) -> None:
    unfinished = b"\x82\x7f" + struct.pack(">Q", LONG_B * 3) + bytes(LONG_B * 3 - 100)
    with flood(lambda head: upgraded(head) + unfinished, b"") as program:
        async with ports() as guest_ports, asyncio.timeout(30):
            visitors = [Visitor() for _ in range(2)]
            visits = [asyncio.create_task(each.visit(guest_ports, program.port)) for each in visitors]
            await asyncio.wait(visits, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            done, waiting = await asyncio.wait(visits, timeout=0.3)
            assert (len(done), len(waiting)) == (1, 1)
            codes = [each.got[-1].get("code") for each in visitors]
            assert codes.count(ABNORMAL) == 1
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        while budget.held_b:
            await asyncio.sleep(0.01)


async def test_messages_of_a_program_that_end_are_not_counted(budget: MessageBudget) -> None:
    message = b"\x82\x7f" + struct.pack(">Q", LONG_B) + bytes(LONG_B)
    with flood(lambda head: upgraded(head) + message * 5, b"") as program:
        async with ports() as guest_ports, asyncio.timeout(30):
            visitor = Visitor()
            visit = asyncio.create_task(visitor.visit(guest_ports, program.port))
            while len(visitor.got) < 6:
                await asyncio.sleep(0.02)
            assert all(len(each["bytes"]) == LONG_B for each in visitor.got[1:])
            assert budget.held_b == 0
            visit.cancel()
            await asyncio.gather(visit, return_exceptions=True)


async def test_pings_and_pongs_are_no_part_of_a_message(
    budget: MessageBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_budget, "FREE_B", 1000)
    async with serving() as url, asyncio.timeout(30):
        async with connect(url, proxy=None, ping_interval=None) as client:
            for _ in range(20):
                await (await client.ping(bytes(100)))
                await client.pong(bytes(100))
            assert budget.held_b == 0
    pings = (b"\x89\x64" + bytes(100) + b"\x8a\x64" + bytes(100)) * 20
    with flood(lambda head: upgraded(head) + pings + b"\x81\x01a", b"") as program:
        async with ports() as guest_ports, asyncio.timeout(30):
            visitor = Visitor()
            visit = asyncio.create_task(visitor.visit(guest_ports, program.port))
            # Only once all are taken: they may wait in the queue before.
            while len(visitor.got) < 2:
                await asyncio.sleep(0.02)
            assert budget.held_b == 0
            visit.cancel()
            await asyncio.gather(visit, return_exceptions=True)


async def test_pings_between_fragments_do_not_hide_them(
    budget: MessageBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_budget, "FREE_B", 1000)
    fragments = b"\x02\x00" + (b"\x00\x7e" + struct.pack(">H", 500) + bytes(500) + b"\x89\x01x") * 20
    with flood(lambda head: upgraded(head) + fragments, b"") as program:
        async with ports() as guest_ports, asyncio.timeout(30):
            visit = asyncio.create_task(Visitor().visit(guest_ports, program.port))
            while budget.held_b < 20 * 500 - 1000:
                await asyncio.sleep(0.02)
            visit.cancel()
            await asyncio.gather(visit, return_exceptions=True)
