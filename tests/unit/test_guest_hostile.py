"""The guest is hostile: whatever answers in its place, a call ends in time, in bounded memory, with an error of ours."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from wrenn.base import errors as e
from wrenn.base.secrets import Secret
from wrenn.guest import CommandLine, Commands, Files, GuestConnection, Identity, initialise
from wrenn.guest import connect as guest_connect
from wrenn.guest import ready as guest_ready

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def hostile_guest(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[GuestConnection]:
    """A guest whose agent answers each request with `answer`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setattr(guest_connect, "ENVD_PORT", port)
    monkeypatch.setattr(guest_ready, "ENVD_PORT", port)
    guest = GuestConnection("127.0.0.1", Secret("token"))
    try:
        yield guest
    finally:
        await guest.close()
        server.close()


def says(*parts: bytes) -> Answer:
    """Sends the parts and closes."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)

    return answer


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: application/connect+proto\r\nConnection: close\r\n\r\n"


async def test_an_over_long_frame_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async with hostile_guest(says(STREAM, struct.pack(">BI", 0, 2**31)), monkeypatch) as guest:
        with pytest.raises(e.AgentFailure, match="over-long"):
            await Commands(guest).run(CommandLine("true"), timeout_s=5)


async def test_an_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/proto\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    async with hostile_guest(endless, monkeypatch) as guest:
        with pytest.raises(e.AgentFailure, match="over-long"):
            await Commands(guest).list()


async def test_endless_headers_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-More: " + bytes(b"a" * 60000))
            await writer.drain()

    async with hostile_guest(endless, monkeypatch) as guest:
        with pytest.raises(e.Unavailable):
            await Commands(guest).list()


@pytest.mark.parametrize(
    "frames",
    [
        b"",
        b"\x00",
        struct.pack(">BI", 0, 10) + b"short",
        struct.pack(">BI", 2, 2) + b"{}",
        struct.pack(">BI", 1, 0),
        struct.pack(">BI", 0, 4) + b"\xff\xff\xff\xff",
        struct.pack(">BI", 2, 8) + b'{"error"',
        struct.pack(">BI", 2, 14) + b'{"error":[1,2]',
    ],
    ids=[
        "nothing",
        "half a head",
        "short body",
        "no exit code",
        "unknown flag",
        "no protobuf",
        "no json",
        "odd error",
    ],
)
async def test_a_broken_stream_is_an_error_of_ours(frames: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hostile_guest(says(STREAM, frames), monkeypatch) as guest:
        with pytest.raises(e.WrennError):
            await Commands(guest).run(CommandLine("true"), timeout_s=5)


async def test_a_guest_that_never_answers_meets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    monkeypatch.setattr("wrenn.guest.commands._GRACE_S", 0.1)
    async with hostile_guest(silent, monkeypatch) as guest:
        with pytest.raises(e.DeadlineExceeded):
            await Commands(guest).run(CommandLine("true"), timeout_s=0.2)


async def test_a_text_of_the_guest_is_made_fit_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"code":"not_found","message":"\\u001b[31mred\\nline' + b"x" * 5000 + b'"}'
    head = f"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with hostile_guest(says(head, body), monkeypatch) as guest:
        with pytest.raises(e.NotFound) as raised:
            await Commands(guest).list()
    assert raised.value.message.isprintable()
    assert len(raised.value.message) <= 500


async def read_whole(guest: GuestConnection) -> bytes:
    async with Files(guest).read("/x", user="root") as download:
        return b"".join([chunk async for chunk in download.chunks])


async def test_a_download_that_breaks_off_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    async with hostile_guest(says(head, b"only this"), monkeypatch) as guest:
        with pytest.raises(e.Unavailable):
            await read_whole(guest)


async def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/secret\r\nContent-Length: 0\r\n\r\n"
    async with hostile_guest(says(head), monkeypatch) as guest:
        with pytest.raises(e.AgentFailure):
            async with Files(guest).read("/x", user="root"):
                pass


async def test_a_guest_that_refuses_its_identity_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = Identity("h", "0" * 32, {}, Secret("a"), None, "l")
    async with hostile_guest(says(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"), monkeypatch):
        with pytest.raises(e.AgentFailure):
            await initialise("127.0.0.1", identity, timeout_s=5)
