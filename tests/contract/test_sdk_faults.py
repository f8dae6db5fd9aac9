"""What the SDK does when the connection or the platform fails: a scripted server says what, connection by connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from sdk_clients import CLIENTS, Client

from wrenn import (
    CapacityError,
    ConnectionFailedError,
    DeadlineExceededError,
    NotFoundError,
    UnexpectedAnswerError,
)

SANDBOX = (
    b'{"id":"cl-x","status":"running","template":"minimal","vcpus":1,"memory_mb":512,"timeout_sec":0,'
    b'"created_at":"2026-01-01T00:00:00Z"}'
)
FULL = b'{"error":{"code":"no_hosts_available","message":"All memory is taken."}}'


def answer(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\nX-Request-Id: req-1\r\n\r\n" + body


Serving = Callable[["Script"], AbstractAsyncContextManager["Script"]]

RESET = b""
"""No answer: the connection is cut once the request was read."""


@pytest.fixture(params=CLIENTS, ids=["async", "sync"])
def client(request: pytest.FixtureRequest) -> Client:
    return request.param()


class Script:
    """What was received, and the answers that are left."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self._connections: set[asyncio.Task[object]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self.reply(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def wait_ended(self) -> None:
        async with asyncio.timeout(10):
            await asyncio.gather(*self._connections)

    async def reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [
            line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        ]
        self.requests.append(head + await reader.readexactly(int(lengths[0]) if lengths else 0))
        if self.answers:
            writer.write(self.answers.pop(0))
            await writer.drain()


class Silent(Script):
    """Accepts and never answers."""

    async def reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Serving:
    @asynccontextmanager
    async def serving(script: Script) -> AsyncGenerator[Script]:
        server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
        monkeypatch.setenv("WRENN_API_KEY", "wrn_test")
        monkeypatch.setenv("WRENN_BASE_URL", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with server:
            yield script
            await script.wait_ended()

    return serving


def keys(script: Script) -> set[bytes]:
    return {
        line
        for request in script.requests
        for line in request.lower().split(b"\r\n")
        if line.startswith(b"idempotency-key")
    }


@pytest.mark.parametrize("failure", [RESET, answer(503, FULL)], ids=["reset", "503"])
async def test_a_create_is_repeated_with_the_same_idempotency_key(
    client: Client, scripted: Serving, failure: bytes
) -> None:
    async with scripted(Script(failure, failure, answer(201, SANDBOX))) as script:
        box = await client.create()
        await box.close()
        assert (box.id, len(script.requests), len(keys(script))) == ("cl-x", 3, 1)


async def test_repetitions_are_bounded_and_the_last_error_is_told(client: Client, scripted: Serving) -> None:
    async with scripted(Script(*[answer(503, FULL)] * 20)) as script:
        with pytest.raises(CapacityError, match="All memory is taken") as refused:
            await client.create()
        assert len(script.requests) == 6
        assert (refused.value.code, refused.value.status, refused.value.request_id) == (
            "no_hosts_available",
            503,
            "req-1",
        )


async def test_a_command_is_never_sent_twice(client: Client, scripted: Serving) -> None:
    async with scripted(Script(answer(201, SANDBOX), RESET)) as script:
        box = await client.create()
        with pytest.raises(ConnectionFailedError) as broken:
            await box.run("true")
        assert broken.value.request_sent
        assert len(script.requests) == 2
        await box.close()


@pytest.mark.parametrize("size", [10, 9 * 1024 * 1024], ids=["small", "streamed"])
async def test_a_write_is_never_sent_twice(client: Client, scripted: Serving, size: int) -> None:
    async with scripted(Script(answer(201, SANDBOX), RESET)) as script:
        box = await client.create()
        with pytest.raises(ConnectionFailedError):
            await box.write("/tmp/x", b"x" * size)
        assert len(script.requests) == 2
        await box.close()


async def test_a_platform_that_comes_up_meanwhile_is_reached(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    monkeypatch.setenv("WRENN_API_KEY", "wrn_test")
    monkeypatch.setenv("WRENN_BASE_URL", f"http://127.0.0.1:{port}")
    script = Script(answer(200, b"[]"))
    listing = asyncio.create_task(client.list())
    server = await asyncio.start_server(script.serve, "127.0.0.1", port)
    async with server:
        assert await listing == []
        await script.wait_ended()


async def test_the_deadline_holds_over_all_attempts(client: Client, scripted: Serving) -> None:
    async with scripted(Silent()):
        started = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceededError):
            await client.create(request_timeout_s=0.3)
        assert asyncio.get_running_loop().time() - started < 3


async def test_a_download_that_breaks_off_is_an_error_and_no_short_success(
    client: Client, scripted: Serving
) -> None:
    torn = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n"
    async with scripted(Script(answer(201, SANDBOX), torn)):
        box = await client.create()
        with pytest.raises(ConnectionFailedError):
            await box.read("/tmp/x")
        await box.close()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"id": 1}', b'{"status":"running"}'])
async def test_an_answer_of_somebody_else_is_told_as_such(
    client: Client, scripted: Serving, body: bytes
) -> None:
    async with scripted(Script(answer(201, body))):
        with pytest.raises(UnexpectedAnswerError):
            await client.create()


async def test_an_error_without_our_shape_follows_its_status(client: Client, scripted: Serving) -> None:
    async with scripted(Script(answer(404, b"not here"))):
        with pytest.raises(NotFoundError, match="404"):
            await client.connect("cl-x")
