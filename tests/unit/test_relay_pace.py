"""A guest sends without an end: others have their turns meanwhile, and whoever leaves or closes is free at once.

The flood comes from threads of its own, so `time.thread_time` in the test is what the event loop itself does for the guest.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import socket
import struct
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, cast

import aiohttp
import pytest

from wrenn.base import errors as e
from wrenn.base.secrets import Secret
from wrenn.guest import (
    CommandLine,
    Commands,
    Files,
    GuestConnection,
    GuestPorts,
    Processes,
    dial_error,
    watch,
)
from wrenn.guest import connect as guest_connect
from wrenn.relay import Pace, PacedConnector, connect_websocket, relay_websocket
from wrenn.relay.connections import HEAD_LIMIT_B, INTERIM_LIMIT
from wrenn.relay.pace import BURST_S, MOST_AT_ONCE_S, MOST_DEBT_S, LoopShare
from wrenn.relay.sockets import TOO_MANY_PINGS, abort_websocket

GUEST = "127.0.0.1"
TURN_LIMIT_S = 0.1
"""CPU time of the loop between two turns of a neighbour. Without pacing it is as long as the attack."""
DEADLINE_S = 20


class Flood:
    """A program that answers each connection with a beginning, and then with the same bytes again and again."""

    def __init__(self, begin: Callable[[bytes], bytes], again: bytes) -> None:
        self._begin = begin
        self._again = again
        self._server = socket.create_server((GUEST, 0))
        self.port: int = self._server.getsockname()[1]
        self.sent_b = 0
        self.ended = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._server.accept()
            except OSError:
                return
            self._sockets.append(accepted)
            thread = threading.Thread(target=self._serve, args=(accepted,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, accepted: socket.socket) -> None:
        head = b""
        try:
            while b"\r\n\r\n" not in head:
                if not (piece := accepted.recv(4096)):
                    return
                head += piece
            accepted.sendall(self._begin(head))
            while self._again:
                self.sent_b += accepted.send(self._again)
            accepted.recv(1)
        except OSError:
            pass
        finally:
            self.ended.set()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for accepted in self._sockets:
            with suppress(OSError):  # the other end has cut it
                accepted.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for accepted in self._sockets:
            accepted.close()


@contextmanager
def flood(begin: bytes | Callable[[bytes], bytes], again: bytes) -> Generator[Flood]:
    made = Flood(begin if callable(begin) else lambda _: begin, again)
    try:
        yield made
    finally:
        made.close()


class Neighbour:
    """Counts its turns of the loop, and how long others kept it at most."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.turns = 0

    async def run(self) -> None:
        at = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest_s = max(self.longest_s, now - at)
            self.turns += 1
            at = now


@asynccontextmanager
async def neighbour() -> AsyncGenerator[Neighbour]:
    """Whoever shares the loop has its turns."""
    gc.collect()
    found = Neighbour()
    task = asyncio.create_task(found.run())
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield found
    finally:
        task.cancel()
        await asyncio.wait({task})
    assert found.longest_s < TURN_LIMIT_S


@asynccontextmanager
async def ports() -> AsyncGenerator[GuestPorts]:
    made = GuestPorts(GUEST, {})
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def guest(flood: Flood, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[GuestConnection]:
    monkeypatch.setattr(guest_connect, "ENVD_PORT", flood.port)
    made = GuestConnection(GUEST, Secret("token"))
    try:
        yield made
    finally:
        await made.close()


INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
HEADS: dict[str, tuple[bytes, bytes]] = {
    "interim answers": (b"", INTERIM * 2000),
    "early hints": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1000),
    "headers without an end": (b"HTTP/1.1 200 OK\r\n", b"X-More: again\r\n" * 100),
    "one header without an end": (b"HTTP/1.1 200 OK\r\nX: ", b"a" * 60_000),
}


@pytest.mark.parametrize("name", HEADS)
async def test_a_head_that_never_comes_is_cut(name: str) -> None:
    begin, again = HEADS[name]
    with flood(begin, again) as program:
        async with neighbour(), ports() as guest_ports:
            with pytest.raises(aiohttp.ClientError) as raised:
                await guest_ports.session.get(guest_ports.url(program.port, "/"))
            assert isinstance(dial_error(raised.value, program.port), e.AgentFailure)
            await asyncio.to_thread(program.ended.wait, DEADLINE_S)
        assert program.ended.is_set()


async def test_interim_responses_are_skipped_up_to_a_limit() -> None:
    answer = INTERIM * INTERIM_LIMIT + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with flood(answer, b"") as program:
        async with ports() as guest_ports:
            async with guest_ports.session.get(guest_ports.url(program.port, "/")) as response:
                assert await response.text() == "ok"


async def test_a_head_has_a_limit_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wrenn.relay.connections.HEAD_TIMEOUT_S", 0.05)
    with flood(b"HTTP/1.1 200 OK\r\nX-Begun: 1\r\n", b"") as program:
        async with asyncio.timeout(DEADLINE_S), ports() as guest_ports:
            with pytest.raises(aiohttp.ClientError):
                await guest_ports.session.get(guest_ports.url(program.port, "/"))


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_body_in_endless_chunks_leaves_others_their_turns_and_is_cut_when_its_reader_leaves() -> None:
    with flood(CHUNKED, b"1\r\na\r\n" * 10_000) as program:
        async with neighbour() as others, ports() as guest_ports:
            async with guest_ports.session.get(guest_ports.url(program.port, "/")) as response:
                began_s, turns = time.monotonic(), others.turns
                used_s = time.thread_time()
                async for _ in response.content.iter_any():
                    if time.monotonic() - began_s > 1.5:
                        break
                used_s = time.thread_time() - used_s
                assert others.turns > turns
            await asyncio.to_thread(program.ended.wait, DEADLINE_S)
        assert program.ended.is_set()


async def test_what_follows_an_answer_ends_the_connection() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with flood(answer, answer * 1000) as program:
        async with neighbour(), ports() as guest_ports:
            async with guest_ports.session.get(guest_ports.url(program.port, "/")) as response:
                assert await response.text() == "ok"
            await asyncio.to_thread(program.ended.wait, DEADLINE_S)
        assert program.ended.is_set()


FRAMES = b"HTTP/1.1 200 OK\r\nContent-Type: application/connect+proto\r\n\r\n"
EMPTY = struct.pack(">BI", 0, 0)


async def test_a_command_that_gets_empty_messages_meets_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wrenn.guest.commands._GRACE_S", 0.1)
    with flood(FRAMES, EMPTY * 10_000) as program:
        async with neighbour(), guest(program, monkeypatch) as connection:
            with pytest.raises(e.DeadlineExceeded):
                await Commands(connection).run(CommandLine("true"), timeout_s=0.5)


async def test_a_watch_and_a_process_that_get_empty_messages_end_when_they_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def watching(connection: GuestConnection) -> None:
        async for _ in watch(connection, "/", recursive=False, user="root"):
            pass

    async def following(connection: GuestConnection) -> None:
        async with Processes(connection).attach(1, replay=False, in_terminal=False) as process:
            async for _ in process.events():
                pass

    with flood(FRAMES, EMPTY * 10_000) as program:
        async with neighbour(), guest(program, monkeypatch) as connection:
            tasks = {asyncio.create_task(job(connection)) for job in (watching, watching, following)}
            await asyncio.wait(tasks, timeout=0.5)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def test_closing_does_not_wait_for_a_guest_that_takes_nothing() -> None:
    async def endless() -> AsyncGenerator[bytes]:
        while True:
            yield bytes(65536)

    with flood(b"", b"") as program:
        async with asyncio.timeout(DEADLINE_S), ports() as guest_ports:
            url = guest_ports.url(program.port, "/")
            upload = asyncio.create_task(guest_ports.session.post(url, data=endless()))
            await asyncio.wait({upload}, timeout=0.3)
            await guest_ports.close()
            with pytest.raises((aiohttp.ClientError, OSError, asyncio.CancelledError)):
                await upload
            await asyncio.to_thread(program.ended.wait, DEADLINE_S)
        assert program.ended.is_set()


def upgraded(head: bytes) -> bytes:
    """The answer to a WebSocket's handshake."""
    key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    digest = hashlib.sha1(key.split(b": ")[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest.digest()) + b"\r\n\r\n"
    )


class Visitor:
    """The client's side of a WebSocket: takes messages, and leaves when it is told to."""

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {"type": "websocket", "subprotocols": [], "headers": []}
        self.said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.got: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        return await self.said.get()

    async def send(self, message: Any) -> None:
        self.got = [*self.got[-9:], message]

    async def visit(self, ports: GuestPorts, port: int) -> None:
        other = await connect_websocket(ports.session, self.scope, ports.url(port, "/"), [])
        await relay_websocket(
            other, self.scope, self.receive, self.send, traffic=lambda: None, pace=ports.pace
        )


@pytest.mark.parametrize("frame", [b"\x89\x00", b"\x8a\x00"], ids=["pings", "pongs"])
async def test_pings_without_an_end_end_the_socket(frame: bytes) -> None:
    with flood(upgraded, frame * 30_000) as program:
        async with neighbour(), ports() as guest_ports:
            visitor = Visitor()
            await visitor.visit(guest_ports, program.port)
            assert visitor.got[-1]["code"] == TOO_MANY_PINGS
            await asyncio.to_thread(program.ended.wait, DEADLINE_S)
        assert program.ended.is_set()


@pytest.mark.parametrize(
    "frame", [b"\x81\x01a", b"\x82\x00", b"\x02\x00" + b"\x00\x00" * 100], ids=["text", "empty", "fragments"]
)
async def test_messages_without_an_end_stop_when_the_client_leaves(frame: bytes) -> None:
    # Fragments of one message without an end, or messages.
    again = frame if frame[0] & 0x80 else b""

    def begin(head: bytes) -> bytes:
        return upgraded(head) + (b"" if again else frame)

    with flood(begin, again * 20_000 or b"\x00\x00" * 20_000) as program:
        async with neighbour(), ports() as guest_ports:
            visitor = Visitor()
            visiting = asyncio.create_task(visitor.visit(guest_ports, program.port))
            await asyncio.wait({visiting}, timeout=0.5)
            visitor.said.put_nowait({"type": "websocket.disconnect", "code": 1001, "reason": ""})
            await visiting
            await asyncio.to_thread(program.ended.wait, DEADLINE_S)
        assert program.ended.is_set()


async def test_a_reader_that_pauses_gets_all_messages() -> None:
    message = b"\x82\x7e" + struct.pack(">H", 60_000) + bytes(60_000)
    with flood(upgraded, message * 8) as program:
        async with ports() as guest_ports, asyncio.timeout(DEADLINE_S):
            other = await guest_ports.session.ws_connect(guest_ports.url(program.port, "/"))
            for n in range(600):
                assert len(await other.receive_bytes()) == 60_000
                if n % 60 == 0:
                    # The buffers fill: whoever reads no more, reads on when there is room.
                    await asyncio.sleep(0.1)
            abort_websocket(other)


async def test_a_reader_that_pauses_gets_the_whole_body() -> None:
    chunk = b"%x\r\n%s\r\n" % (60_000, bytes(60_000))
    with flood(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunk * 8) as program:
        async with ports() as guest_ports, asyncio.timeout(DEADLINE_S):
            async with guest_ports.session.get(guest_ports.url(program.port, "/")) as response:
                for n in range(300):
                    await response.content.readexactly(300_000)
                    if n % 30 == 0:
                        await asyncio.sleep(0.1)


async def test_connections_that_were_cut_are_let_go_of() -> None:
    with flood(b"", INTERIM * 2000) as program:
        async with ports() as guest_ports:
            for _ in range(3):
                with pytest.raises(aiohttp.ClientError):
                    await guest_ports.session.get(guest_ports.url(program.port, "/"))
            connector = cast("PacedConnector", guest_ports.session.connector)
        await asyncio.sleep(0)
        gc.collect()
    assert connector.connections == 0
    assert program.sent_b < 3 * (HEAD_LIMIT_B + 16 * 1024 * 1024), "no more than the kernel's buffers take"


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def spend(pace: Pace, work_s: float) -> None:
    """In pieces as they are counted."""
    while work_s > 1e-9:
        pace.charge(min(work_s, MOST_AT_ONCE_S))
        work_s -= MOST_AT_ONCE_S


def test_a_guest_in_debt_waits_until_its_share_has_paid_for_it() -> None:
    clock = Clock()
    pace = Pace(share=0.25, burst_s=0.5, clock=clock, loop_share=LoopShare(0.5))
    spend(pace, 0.5)
    assert pace.owed_s() == 0
    spend(pace, 0.1)
    assert pace.owed_s() == pytest.approx(0.4)
    clock.at += 0.2
    assert pace.owed_s() == pytest.approx(0.2)
    clock.at += 1000
    spend(pace, 0.5)
    assert pace.owed_s() == 0, "no more than the burst is saved"


def test_a_process_that_stood_still_leaves_no_guest_in_debt_for_long() -> None:
    clock = Clock()
    pace = Pace(share=0.25, clock=clock, loop_share=LoopShare(0.5))
    pace.charge(1000)
    assert pace.owed_s() == 0
    spend(pace, 1000)
    assert pace.owed_s() == pytest.approx(MOST_DEBT_S / 0.25)


def test_guests_in_debt_share_what_there_is_and_others_keep_their_own() -> None:
    clock, loop_share = Clock(), LoopShare(0.5)
    greedy = [Pace(share=0.25, clock=clock, loop_share=loop_share) for _ in range(10)]
    for pace in greedy:
        spend(pace, BURST_S + 0.1)
    assert greedy[0].owed_s() == pytest.approx(0.1 / 0.05)
    quiet = Pace(clock=clock, loop_share=loop_share)
    quiet.charge(BURST_S / 2)
    assert quiet.owed_s() == 0
    clock.at += 60
    assert greedy[0].owed_s() == 0
    spend(greedy[0], BURST_S + 0.1)
    assert greedy[0].owed_s() == pytest.approx(0.1 / 0.25), "who has paid does not count any more"


async def test_waiting_always_lets_others_have_their_turn() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    pace = Pace(clock=Clock())
    for _ in range(10):
        await pace.passed()
    task.cancel()
    assert turns >= 10


async def test_a_download_is_whole_however_its_pieces_come() -> None:
    body = bytes(range(256)) * 8192
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with flood(answer, b"") as program:
        async with ports() as guest_ports:
            async with guest_ports.session.get(guest_ports.url(program.port, "/")) as response:
                assert await response.read() == body


async def test_a_body_without_a_length_is_whole_when_the_connection_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = bytes(range(256)) * 8192

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + body)
        writer.close()

    server = await asyncio.start_server(serve, GUEST, 0)
    monkeypatch.setattr(guest_connect, "ENVD_PORT", server.sockets[0].getsockname()[1])
    connection = GuestConnection(GUEST, Secret("token"))
    try:
        async with Files(connection).read("/x", user="root") as download:
            assert b"".join([chunk async for chunk in download.chunks]) == body
    finally:
        await connection.close()
        server.close()
