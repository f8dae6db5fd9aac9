"""What the SDK does when the connection or the platform fails: a scripted server says what, connection by connection."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import resource
import socket
import tarfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from sdk_clients import Box, Client

from wrenn import (
    CapacityError,
    ConflictError,
    ConnectionFailedError,
    DeadlineExceededError,
    InvalidStateError,
    NotFoundError,
    UnexpectedAnswerError,
    WrennError,
)
from wrenn.sdk._sockets import AsyncSocket
from wrenn.sdk.port_forward import forwarded_port
from wrenn.sdk.settings import client_settings

SANDBOX = (
    b'{"id":"cl-x","status":"running","template":"minimal","vcpus":1,"memory_mb":512,"timeout_sec":0,'
    b'"created_at":"2026-01-01T00:00:00Z"}'
)
PAUSED = SANDBOX.replace(b'"running"', b'"paused"')
WRONG_STATE = b'{"error":{"code":"invalid_state","message":"It is not in a state for that."}}'
NOT_FOUND = b'{"error":{"code":"not_found","message":"No template of this name."}}'
TEMPLATE = (
    b'{"name":"n","type":"snapshot","size_bytes":1,"created_at":"2026-01-01T00:00:00Z","platform":false}'
)
FULL = b'{"error":{"code":"no_hosts_available","message":"All memory is taken."}}'


def answer(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\nX-Request-Id: req-1\r\n\r\n" + body


Serving = Callable[["Script"], AbstractAsyncContextManager["Script"]]

RESET = b""
"""No answer: the connection is cut once the request was read."""


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
        # One that was accepted at the last moment.
        await asyncio.sleep(0)
        await script.wait_ended()

    return serving


# A create with a lifetime of its own, such as 0, is one request.


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
        box = await client.create(lifetime_sec=0)
        await box.close()
        assert (box.id, len(script.requests), len(keys(script))) == ("cl-x", 3, 1)


async def test_retries_are_bounded_and_the_last_error_is_raised(client: Client, scripted: Serving) -> None:
    async with scripted(Script(*[answer(503, FULL)] * 20)) as script:
        with pytest.raises(CapacityError, match="All memory is taken") as refused:
            await client.create(lifetime_sec=0)
        assert len(script.requests) == 6
        assert (refused.value.code, refused.value.status, refused.value.request_id) == (
            "no_hosts_available",
            503,
            "req-1",
        )


async def test_a_create_whose_last_step_fails_removes_the_sandbox(client: Client, scripted: Serving) -> None:
    async with scripted(Script(answer(201, SANDBOX), answer(409, WRONG_STATE), answer(204, b""))) as script:
        with pytest.raises(InvalidStateError):
            await client.create(on_expiry="kill")
        made, ended, removed = script.requests
    assert b'"lifetime_sec":600' in made
    assert ended.startswith(b"PATCH /v1/sandboxes/cl-x/timeout ")
    assert b'"lifetime_sec":0,"on_expiry":"kill"' in ended
    assert removed.startswith(b"DELETE /v1/sandboxes/cl-x ")


async def test_a_command_is_never_sent_twice(client: Client, scripted: Serving) -> None:
    async with scripted(Script(answer(201, SANDBOX), RESET)) as script:
        box = await client.create(lifetime_sec=0)
        with pytest.raises(ConnectionFailedError) as broken:
            await box.run("true")
        assert broken.value.request_sent
        assert len(script.requests) == 2
        await box.close()


@pytest.mark.parametrize("size", [10, 9 * 1024 * 1024], ids=["small", "streamed"])
async def test_a_write_is_never_sent_twice(client: Client, scripted: Serving, size: int) -> None:
    async with scripted(Script(answer(201, SANDBOX), RESET)) as script:
        box = await client.create(lifetime_sec=0)
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
            await client.create(lifetime_sec=0, request_timeout_s=0.3)
        assert asyncio.get_running_loop().time() - started < 10


async def test_a_download_that_breaks_off_is_an_error_and_no_short_success(
    client: Client, scripted: Serving
) -> None:
    torn = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n"
    async with scripted(Script(answer(201, SANDBOX), torn)):
        box = await client.create(lifetime_sec=0)
        with pytest.raises(ConnectionFailedError):
            await box.read("/tmp/x")
        await box.close()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"id": 1}', b'{"status":"running"}'])
async def test_a_response_from_another_server_is_reported_as_such(
    client: Client, scripted: Serving, body: bytes
) -> None:
    async with scripted(Script(answer(201, body))):
        with pytest.raises(UnexpectedAnswerError):
            await client.create(lifetime_sec=0)


async def test_an_error_without_our_shape_follows_its_status(client: Client, scripted: Serving) -> None:
    async with scripted(Script(answer(404, b"not here"))):
        with pytest.raises(NotFoundError, match="404"):
            await client.connect("cl-x")


def calls(script: Script) -> list[str]:
    return [request.split(b" HTTP/")[0].decode() for request in script.requests]


@pytest.mark.parametrize("failure", [RESET, answer(503, FULL)], ids=["reset", "503"])
@pytest.mark.parametrize(
    ("verb", "before", "after"), [("pause", SANDBOX, PAUSED), ("resume", PAUSED, SANDBOX)]
)
async def test_a_state_that_a_lost_attempt_brought_about_is_a_success(
    client: Client, scripted: Serving, verb: str, before: bytes, after: bytes, failure: bytes
) -> None:
    # The lost attempt still works when the second one is refused, so the first look finds the former status.
    answers = [failure, answer(409, WRONG_STATE), answer(200, before), answer(200, after)]
    async with scripted(Script(answer(201, SANDBOX), *answers)) as script:
        box = await client.create(lifetime_sec=0)
        await getattr(box, verb)()
        assert calls(script)[1:] == [f"POST /v1/sandboxes/cl-x/{verb}"] * 2 + ["GET /v1/sandboxes/cl-x"] * 2
        await box.close()


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_a_first_attempt_that_is_refused_is_an_error_without_a_look(
    client: Client, scripted: Serving, verb: str
) -> None:
    async with scripted(Script(answer(201, SANDBOX), answer(409, WRONG_STATE))) as script:
        box = await client.create(lifetime_sec=0)
        with pytest.raises(InvalidStateError) as refused:
            await getattr(box, verb)()
        assert not refused.value.earlier_attempt_sent
        assert len(script.requests) == 2
        await box.close()


async def test_a_lost_attempt_does_not_excuse_a_sandbox_that_has_ended(
    client: Client, scripted: Serving
) -> None:
    ended = answer(200, SANDBOX.replace(b'"running"', b'"stopped"'))
    async with scripted(Script(answer(201, SANDBOX), RESET, answer(409, WRONG_STATE), ended)):
        box = await client.create(lifetime_sec=0)
        with pytest.raises(InvalidStateError):
            await box.pause()
        await box.close()


async def test_connecting_is_content_when_somebody_else_resumed_it(client: Client, scripted: Serving) -> None:
    # Paused at the look, resumed by another and paused again, then really resumed by another.
    looks = [answer(200, PAUSED), answer(409, WRONG_STATE)]
    async with scripted(Script(*looks, *looks, answer(200, SANDBOX))) as script:
        box = await client.connect("cl-x")
        assert calls(script) == ["GET /v1/sandboxes/cl-x", "POST /v1/sandboxes/cl-x/resume"] * 2 + [
            "GET /v1/sandboxes/cl-x"
        ]
        await box.close()


async def test_a_template_that_a_lost_attempt_deleted_is_deleted(client: Client, scripted: Serving) -> None:
    async with scripted(Script(RESET, answer(404, NOT_FOUND))) as script:
        await client.delete_template("a/b")
        assert calls(script) == ["DELETE /v1/snapshots/a%2Fb"] * 2
    async with scripted(Script(answer(404, NOT_FOUND))):
        with pytest.raises(NotFoundError):
            await client.delete_template("n")


async def test_forks_and_new_templates_are_never_made_twice(client: Client, scripted: Serving) -> None:
    async with scripted(Script(answer(201, SANDBOX), RESET, RESET, RESET)) as script:
        box = await client.create(lifetime_sec=0)
        for call in (box.fork(2), box.snapshot(), box.snapshot("n")):
            with pytest.raises(ConnectionFailedError):
                await call
        assert len(script.requests) == 4
        await box.close()


async def test_a_template_that_replaces_another_is_made_again(client: Client, scripted: Serving) -> None:
    async with scripted(Script(answer(201, SANDBOX), RESET, answer(201, TEMPLATE))) as script:
        box = await client.create(lifetime_sec=0)
        assert (await box.snapshot("n", overwrite=True)).name == "n"
        assert calls(script)[1:] == ["POST /v1/snapshots?overwrite=true"] * 2
        await box.close()


def part(first: int, whole: bytes, cut: int, tag: bytes = b'"1"') -> bytes:
    """An answer with the bytes from `first` on, that breaks off after `cut` of them."""
    head = b"HTTP/1.1 200 OK\r\n"
    if first:
        head = b"HTTP/1.1 206 Part\r\nContent-Range: bytes %d-%d/%d\r\n" % (first, len(whole) - 1, len(whole))
    head += b"ETag: %s\r\nContent-Length: %d\r\n\r\n" % (tag, len(whole) - first)
    return head + whole[first : first + cut]


async def test_a_broken_download_goes_on_where_it_was(client: Client, scripted: Serving) -> None:
    content = bytes(range(200))
    answers = (
        answer(201, SANDBOX),
        part(0, content, 50),
        part(50, content, 100),
        RESET,
        part(150, content, 50),
    )
    async with scripted(Script(*answers)) as script:
        box = await client.create(lifetime_sec=0)
        told: list[int] = []
        assert b"".join(await box.read_stream("/f", on_resume=told.append)) == content
        await box.close()
    assert told == [50, 150, 150]
    asked = [request for request in script.requests[2:] if b'if-range: "1"' in request.lower()]
    assert [b"bytes=50-" in asked[0], b"bytes=150-" in asked[1], len(asked)] == [True, True, 3]


async def test_a_broken_download_of_a_changed_file_is_an_error(client: Client, scripted: Serving) -> None:
    content = bytes(range(200))
    async with scripted(Script(answer(201, SANDBOX), part(0, content, 50), part(0, content, 200, b'"2"'))):
        box = await client.create(lifetime_sec=0)
        with pytest.raises(ConflictError, match="changed"):
            await box.read("/f", format="bytes")
        await box.close()


async def test_a_download_that_brings_nothing_more_is_given_up(client: Client, scripted: Serving) -> None:
    content = bytes(range(200))
    async with scripted(Script(answer(201, SANDBOX), part(0, content, 50), *[RESET] * 20)) as script:
        box = await client.create(lifetime_sec=0)
        with pytest.raises(ConnectionFailedError):
            await box.read("/f", format="bytes")
        await box.close()
    assert len(script.requests) < 10


async def test_a_directory_that_breaks_off_leaves_nothing(
    client: Client, scripted: Serving, tmp_path: Path
) -> None:
    entry = (
        b'{"entry":{"name":"d","path":"/d","type":"directory","size":1,"mode":493,"permissions":"drwxr-xr-x",'
        b'"owner":"root","group":"root","modified_at":1}}'
    )
    info = tarfile.TarInfo("file")
    info.size = 100_000
    broken = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + info.tobuf() + bytes(50_000)
    async with scripted(Script(answer(201, SANDBOX), answer(200, entry), broken)):
        box = await client.create(lifetime_sec=0)
        with pytest.raises(ConnectionFailedError):
            await box.download("/d", tmp_path / "d")
        await box.close()
    assert list(tmp_path.iterdir()) == []


# A program of the sandbox in place of its code interpreter, which may answer anything.

FROM_SANDBOX = b"X-Wrenn-Source: sandbox\r\n"
CODE_CALLS = ["run_code", "create_context"]


def packed(size_b: int) -> bytes:
    """Zeros that were compressed three times."""
    block = gzip.compress(bytes(1024 * 1024))
    return gzip.compress(gzip.compress(block * (size_b // (1024 * 1024))))


async def call_code(box: Box, call: str) -> None:
    await (box.run_code("1") if call == "run_code" else box.create_context())


@pytest.mark.parametrize("call", CODE_CALLS)
@pytest.mark.parametrize("status", [200, 500])
async def test_a_compressed_answer_of_a_sandbox_is_not_unpacked(
    client: Client, scripted: Serving, status: int, call: str
) -> None:
    body = packed(4 * 1024**3)
    head = b"HTTP/1.1 %d X\r\nContent-Encoding: gzip, gzip, gzip\r\nContent-Length: %d\r\n" % (
        status,
        len(body),
    )
    hostile = head + FROM_SANDBOX + b"Connection: close\r\n\r\n" + body
    async with scripted(Script(answer(201, SANDBOX), hostile)) as script:
        box = await client.create(lifetime_sec=0)
        before_kb, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        with pytest.raises(UnexpectedAnswerError, match="compressed"):
            await call_code(box, call)
        assert time.process_time() - began < 2
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 64 * 1024
        await box.close()
        assert b"accept-encoding: identity\r\n" in script.requests[1].lower()


@pytest.mark.parametrize("call", CODE_CALLS)
@pytest.mark.parametrize("status", [200, 500])
async def test_an_answer_of_a_sandbox_is_read_up_to_a_limit(
    client: Client, scripted: Serving, status: int, call: str
) -> None:
    class Endless(Script):
        async def reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self.answers:
                await super().reply(reader, writer)
                return
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 %d X\r\n" % status + FROM_SANDBOX + b"\r\n")
            while True:
                writer.write(b" " * 65536)
                await writer.drain()

    async with scripted(Endless(answer(201, SANDBOX))):
        box = await client.create(lifetime_sec=0)
        with pytest.raises(UnexpectedAnswerError, match="too long"):
            await call_code(box, call)
        await box.close()


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, UnexpectedAnswerError), (503, UnexpectedAnswerError), (404, NotFoundError)],
)
async def test_a_sandbox_cannot_answer_as_the_platform(
    client: Client, scripted: Serving, status: int, error: type[WrennError]
) -> None:
    body = b'{"error":{"code":"unauthorized","message":"The API key was revoked."}}'
    hostile = answer(status, body).replace(b"X-Request-Id", FROM_SANDBOX + b"X-Request-Id")
    async with scripted(Script(answer(201, SANDBOX), hostile, hostile)) as script:
        box = await client.create(lifetime_sec=0)
        for call in CODE_CALLS:
            with pytest.raises(error) as raised:
                await call_code(box, call)
            assert type(raised.value) is error
        await box.close()
        assert len(script.requests) == 3


async def test_cookies_of_a_sandbox_do_not_go_along_with_later_calls(
    client: Client, scripted: Serving
) -> None:
    cookies = b"".join(b"Set-Cookie: a%d=%s; Path=/\r\n" % (n, b"x" * 30_000) for n in range(3))
    hostile = answer(200, b'{"type":"end_of_execution"}\n').replace(
        b"X-Request-Id", cookies + b"X-Request-Id"
    )
    async with scripted(Script(answer(201, SANDBOX), hostile, answer(204, b""))) as script:
        box = await client.create(lifetime_sec=0)
        await box.run_code("1")
        await box.kill()
        assert script.requests[2].startswith(b"DELETE /v1/sandboxes/cl-x ")
        assert b"cookie" not in script.requests[2].lower()


@pytest.mark.parametrize("target", ["ws://127.0.0.1:{port}/x", "https://login.example.com/"])
async def test_a_websocket_follows_no_redirect(scripted: Serving, target: str) -> None:
    """The API key would go along to whatever host it names."""
    other = Script()
    server = await asyncio.start_server(other.serve, "127.0.0.1", 0)
    location = target.format(port=server.sockets[0].getsockname()[1]).encode()
    redirect = (
        b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % location
    )
    async with server, scripted(Script(redirect, redirect)):
        settings = client_settings()
        with pytest.raises(WrennError):
            await AsyncSocket.open(settings, "/v1/x", {}, timeout_s=10)
        failures: list[WrennError] = []
        async with forwarded_port(settings, "cl-x", 80, on_error=failures.append) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.timeout(10):
                assert await reader.read() == b""
            writer.close()
        assert len(failures) == 1
    assert other.requests == []
