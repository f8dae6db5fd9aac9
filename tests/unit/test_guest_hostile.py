"""The guest is hostile: whatever answers in its place, a call ends in time, in bounded memory, with an error of ours."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Any

import pytest
from protobuf import Oneof

from wrenn.base import errors as e
from wrenn.base.secrets import Secret
from wrenn.guest import (
    CommandLine,
    Commands,
    Event,
    Exited,
    Files,
    GuestConnection,
    Identity,
    Output,
    Processes,
    Started,
    initialise,
    read_figures,
    watch,
)
from wrenn.guest import connect as guest_connect
from wrenn.guest import lifecycle as guest_lifecycle
from wrenn.protocol.guest import filesystem_pb as watch_pb
from wrenn.protocol.guest import process_pb as pb

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def hostile_guest(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[GuestConnection]:
    """A guest whose agent answers each request with `answer`."""

    handlers: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
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
    monkeypatch.setattr(guest_lifecycle, "ENVD_PORT", port)
    guest = GuestConnection("127.0.0.1", Secret("token"))
    try:
        yield guest
    finally:
        await guest.close()
        server.close()
        for handler in handlers:
            handler.cancel()
        if handlers:
            await asyncio.wait(handlers)
        # What they closed ends in the next turn of the loop.
        await asyncio.sleep(0)


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


@pytest.mark.parametrize(
    ("answer_timeout_s", "delay_s", "timeout_s"),
    [
        pytest.param(0.1, 2, 1.5, id="the answer is lost"),
        pytest.param(5.0, 0.6, 10, id="the clock was set late"),
    ],
)
async def test_an_identity_is_sent_again(
    answer_timeout_s: float, delay_s: float, timeout_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    async def late_at_first(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.sleep(delay_s)
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    monkeypatch.setattr(guest_lifecycle, "_ANSWER_TIMEOUT_S", answer_timeout_s)
    identity = Identity("h", "0" * 32, {}, Secret("a"), None, "l")
    async with hostile_guest(late_at_first, monkeypatch):
        await initialise("127.0.0.1", identity, timeout_s=timeout_s)
    assert calls == 2


def event(content: Any) -> bytes:
    """A frame with an event of a process."""
    message = pb.StartResponse(event=pb.ProcessEvent(event=content))
    body = message.to_binary()
    return struct.pack(">BI", 0, len(body)) + body


STARTED = event(Oneof("start", pb.ProcessEvent.StartEvent(pid=7)))
OUTPUT = event(Oneof("data", pb.ProcessEvent.DataEvent(output=Oneof("stdout", b"x"))))
EXITED = event(Oneof("end", pb.ProcessEvent.EndEvent(exit_code=3, exited=True)))


async def followed(guest: GuestConnection) -> list[Event]:
    async with Processes(guest).start(CommandLine("true")) as process:
        return [event async for events in process.events() for event in events]


async def test_a_good_stream_is_read_whatever_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = STARTED + OUTPUT * 3 + EXITED

    async def dripping(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        for byte in whole:
            writer.write(bytes((byte,)))
            await writer.drain()

    async with hostile_guest(dripping, monkeypatch) as guest:
        found = await followed(guest)
    pieces = [p for e in found if isinstance(e, Output) for p in e.pieces]
    assert (found[0], pieces, found[-1]) == (Started(7, 0, 0), [b"x"] * 3, Exited(3))


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ([STARTED, struct.pack(">BI", 0, 256 * 1024 + 1)], "over-long"),
        ([STARTED, struct.pack(">BI", 0x40, 0)], "flags"),
        ([OUTPUT, STARTED, EXITED], "start"),
        ([STARTED, struct.pack(">BI", 0, 3), b"\xff\xff\xff"], "cannot be read"),
        ([STARTED, struct.pack(">BI", 2, 2), b"{}"], "without an exit code"),
        ([STARTED, struct.pack(">BI", 2, 2000), b"x" * 2000], "without an exit code"),
    ],
)
async def test_a_stream_that_lies_ends_with_an_error(
    parts: list[bytes], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hostile_guest(says(STREAM, *parts), monkeypatch) as guest:
        with pytest.raises(e.AgentFailure, match=match):
            await followed(guest)


async def test_a_stream_that_breaks_off_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    async with hostile_guest(says(STREAM, STARTED, OUTPUT[:4]), monkeypatch) as guest:
        with pytest.raises(e.Unavailable):
            await followed(guest)


async def test_output_that_nobody_reads_is_not_read_from_the_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0
    chunk = event(Oneof("data", pb.ProcessEvent.DataEvent(output=Oneof("stdout", bytes(32 * 1024)))))

    async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(STREAM + STARTED)
        while True:
            writer.write(chunk)
            await writer.drain()
            written += len(chunk)

    async with hostile_guest(endless, monkeypatch) as guest:
        async with Processes(guest).start(CommandLine("true")) as process:
            async for _ in process.events():
                break
            held_up = asyncio.Event()
            asyncio.get_running_loop().call_later(1.0, held_up.set)
            await held_up.wait()
    assert written < 16 * 1024 * 1024, "sockets and what is read ahead"


async def test_streams_of_one_guest_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        await writer.drain()
        await reader.read()

    async with hostile_guest(silent, monkeypatch) as guest, AsyncExitStack() as stack:
        for _ in range(guest_connect.STREAM_LIMIT):
            await stack.enter_async_context(Processes(guest).start(CommandLine("true")))
        with pytest.raises(e.RateLimited):
            await followed(guest)


HOSTILE_TEXTS: dict[str, bytes] = {
    "deep": b"[" * 60_000,
    "deep objects": b'{"code":' * 20_000,
    "a deep error": b'{"error":' + b"[" * 60_000,
    "a deep message": b'{"message":' + b"[" * 900 + b"]" * 900 + b"}",
    "no object": b"[1]",
    "a number of many digits": b'{"message":' + b"9" * 20_000 + b"}",
    "no text": b'{"message":{"a":1},"code":[]}',
    "no UTF-8": b'{"message":"\xff\xfe"}',
    "lone surrogates": b'{"message":"\\ud800\\udfff","code":"\\ud800"}',
    "not a number": b'{"message":NaN}',
}


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
async def test_a_hostile_text_is_an_error_of_ours_that_can_be_shown(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = HOSTILE_TEXTS[name][:60_000]
    refusal = b"HTTP/1.1 500 Oh\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    end = STREAM + struct.pack(">BI", 2, len(body)) + body

    async def error_of(answer: Answer, call: Callable[[GuestConnection], Awaitable[object]]) -> e.WrennError:
        async with hostile_guest(answer, monkeypatch) as guest:
            with pytest.raises(e.WrennError) as raised:
                await call(guest)
        return raised.value

    async def listed(guest: GuestConnection) -> object:
        return await Commands(guest).list()

    async def run(guest: GuestConnection) -> object:
        return await Commands(guest).run(CommandLine("true"), timeout_s=5)

    calls = ((says(refusal), listed), (says(refusal), read_whole), (says(end), run), (says(end), followed))
    for answer, call in calls:
        error = await error_of(answer, call)
        assert error.message.isprintable()
        assert error.message.encode()


FIGURES = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        says(FIGURES, b"[" * 100_000),
        says(FIGURES, b'{"mem_total": 1, "mem_used": -1, "disk_used": 1, "disk_total": 1}'),
        says(FIGURES, b'{"mem_total": 1e99, "mem_used": 1, "disk_used": 1, "disk_total": 1}'),
        says(FIGURES, b'{"mem_total": true, "mem_used": 1, "disk_used": 1, "disk_total": 1}'),
        says(FIGURES, b'{"mem_total": %d, "mem_used": 1, "disk_used": 1, "disk_total": 1}' % (1 << 60)),
        says(FIGURES, b"{}"),
        says(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nConnection: close\r\n\r\n"),
    ],
)
async def test_figures_that_are_not_possible_are_refused(
    answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hostile_guest(answer, monkeypatch) as guest:
        with pytest.raises(e.AgentFailure):
            await read_figures(guest, timeout_s=5)


async def test_figures_that_do_not_come_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async with hostile_guest(silent, monkeypatch) as guest:
        with pytest.raises(e.Unavailable):
            await read_figures(guest, timeout_s=0.1)


async def not_answered(timeout_s: float) -> None:
    with pytest.raises(e.Unavailable):
        await initialise(
            "127.0.0.1", Identity("h", "0" * 32, {}, Secret("a"), None, "l"), timeout_s=timeout_s
        )


async def test_a_guest_that_refuses_connections_is_asked_more_and_more_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, connects = asyncio.get_running_loop(), 0
    connect = loop.sock_connect

    async def counted(sock: socket.socket, address: Any) -> None:
        nonlocal connects
        connects += 1
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", counted)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there
        monkeypatch.setattr(guest_lifecycle, "ENVD_PORT", closed.getsockname()[1])
        await not_answered(timeout_s=1.5)
    # 40 at first, some 10 in the first 20 ms, and then one in each tenth of the time that has passed.
    assert connects < 120


async def test_a_guest_that_closes_connections_is_asked_more_and_more_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0

    async def closing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1

    async with hostile_guest(closing, monkeypatch):
        await not_answered(timeout_s=1.5)
    assert 10 < calls < 120


WATCH_STARTED = watch_pb.WatchDirResponse(event=Oneof("start", watch_pb.WatchDirResponse.StartEvent()))
LOST_EVENTS = b'{"error": {"code": "resource_exhausted", "message": "too slow"}}'


async def test_a_guest_that_ends_a_watch_again_and_again_is_asked_more_and_more_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0
    body = WATCH_STARTED.to_binary()

    async def ending(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        writer.write(STREAM + struct.pack(">BI", 0, len(body)) + body)
        writer.write(struct.pack(">BI", 2, len(LOST_EVENTS)) + LOST_EVENTS)

    kinds: list[str] = []
    async with hostile_guest(ending, monkeypatch) as guest:
        watching = watch(guest, "/", recursive=False, user="root")
        with suppress(TimeoutError):
            async with asyncio.timeout(1.5), aclosing(watching):
                while True:
                    kinds.append((await anext(watching)).kind)
    assert kinds[:2] == ["started", "overflow"]
    assert 3 <= calls <= 5


async def test_watches_count_as_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    body = WATCH_STARTED.to_binary()

    async def quiet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + struct.pack(">BI", 0, len(body)) + body)
        await writer.drain()
        await asyncio.sleep(10)

    async with hostile_guest(quiet, monkeypatch) as guest, AsyncExitStack() as open_watches:

        async def begin() -> None:
            seen = watch(guest, "/", recursive=False, user="root")
            await open_watches.enter_async_context(aclosing(seen))
            assert (await anext(seen)).kind == "started"

        for _ in range(guest_connect.STREAM_LIMIT):
            await begin()
        with pytest.raises(e.RateLimited):
            await begin()


async def _pieces(*pauses_s: float, size_b: int = 1024 * 1024) -> AsyncGenerator[bytes]:
    for pause_s in pauses_s:
        await asyncio.sleep(pause_s)
        yield bytes(size_b)


async def test_an_upload_that_the_guest_does_not_read_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    async def unread(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await ended.wait()

    monkeypatch.setattr("wrenn.guest.files._IDLE_TIMEOUT_S", 0.5)
    async with hostile_guest(unread, monkeypatch) as guest:
        try:
            with pytest.raises(e.Unavailable):
                async with asyncio.timeout(20):
                    await Files(guest).write("/x", _pieces(*[0.0] * 32), user="root")
        finally:
            ended.set()


async def test_an_upload_may_wait_for_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stored(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    monkeypatch.setattr("wrenn.guest.files._IDLE_TIMEOUT_S", 0.3)
    async with hostile_guest(stored, monkeypatch) as guest:
        await Files(guest).write("/x", _pieces(0.7, 0.7, size_b=100), user="root")


async def test_no_token_is_logged_when_a_guest_speaks_another_protocol(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with hostile_guest(says(b"garbage\r\n\r\n"), monkeypatch) as guest:
        with pytest.raises(e.WrennError) as raised:
            await Commands(guest).list()
        identity = Identity(
            hostname="x",
            machine_id="0" * 32,
            envs={},
            token=Secret("another secret"),
            former_token=None,
            lifecycle_id="1",
        )
        with pytest.raises(e.WrennError) as refused:
            await initialise("127.0.0.1", identity, timeout_s=1)
    for error in (raised.value, refused.value):
        text = f"{error.context} {error}"
        assert "token" not in text.lower()
        assert "secret" not in text
