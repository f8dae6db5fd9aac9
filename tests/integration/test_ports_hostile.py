"""Both ends of a visit are hostile: heads that can be read in two ways, heads without end, lies about lengths, slow readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
import uvicorn
import websockets
from websockets.utils import accept_key

from wrenn.base.units import MIB
from wrenn.relay import BoundedHttp
from wrenn.relay.server import HEAD_LIMIT_B, HEADER_LIMIT
from wrenn.testing.server import served

from .conftest import DEADLINE_S, Platform
from .guest_programs import OK, Handler, answering, program, read_head
from .test_ports import headers_of, host_of, open_raw, socket

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's, with a team of the test's own."""
    return team_platform


@pytest_asyncio.fixture(loop_scope="module")
async def path(platform: Platform) -> str:
    return await platform.create()


@asynccontextmanager
async def visited(platform: Platform) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await open_raw(platform)
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield reader, writer
    finally:
        writer.transport.abort()


async def everything(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side ends the connection."""
    got = b""
    try:
        while piece := await reader.read(65536):
            got += piece
    except ConnectionError:
        pass
    return got


INNER = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
TWO_WAYS: dict[str, str] = {
    "length and chunks": f"Content-Length: {len(INNER) + 5}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{INNER}",
    "chunks and length": f"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{INNER}",
    "two lengths": f"Content-Length: 0\r\nContent-Length: {len(INNER)}\r\n\r\n{INNER}",
    "a list of lengths": f"Content-Length: 0, {len(INNER)}\r\n\r\n{INNER}",
    "a signed length": f"Content-Length: +{len(INNER)}\r\n\r\n{INNER}",
    "a negative length": f"Content-Length: -1\r\n\r\n{INNER}",
    "unknown encoding": f"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{INNER}",
    "chunked is not the last": f"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{INNER}",
    "space before the colon": f"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{INNER}",
    "bad chunk size": f"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n{INNER}",
    "zero byte": "X: a\0b\r\n\r\n",
    "bare carriage return": "X: a\rContent-Length: 5\r\n\r\n",
    "no colon": "nonsense\r\n\r\n",
    "two hosts": "Host: evil.test\r\n\r\n",
}


async def test_a_request_that_can_be_read_in_two_ways_is_refused(
    platform: Platform, path: str, subtests: pytest.Subtests
):
    seen: list[list[bytes]] = []
    async with program(answering(OK, seen)) as port:
        for name, rest in TWO_WAYS.items():
            with subtests.test(name):
                async with visited(platform) as (reader, writer):
                    head = f"POST / HTTP/1.1\r\nHost: {host_of(path, port)}\r\n"
                    writer.write(f"{head}X-API-Key: {platform.key.reveal()}\r\n{rest}".encode())
                    got = await everything(reader) if name != "two hosts" else await reader.readline()
                    assert got.startswith(b"HTTP/1.1 400 ")
                    assert got.count(b"HTTP/1.1 ") == 1
    assert seen == []


async def test_folded_and_bare_lines_smuggle_nothing(
    platform: Platform, path: str, subtests: pytest.Subtests
):
    """Where the parser is lenient, the program still gets one request whose length both sides agree on."""
    cases = {
        "folded": f"X: a\r\n Transfer-Encoding: chunked\r\nContent-Length: {len(INNER)}\r\n\r\n{INNER}",
        "bare line feeds": f"X: a\nContent-Length: {len(INNER)}\n\n{INNER}",
        "bare line feed in a value": f"X: a\nTransfer-Encoding: chunked\r\nContent-Length: {len(INNER)}\r\n\r\n{INNER}",
    }
    for name, rest in cases.items():
        with subtests.test(name):
            seen: list[list[bytes]] = []
            async with program(answering(OK, seen)) as port, visited(platform) as (reader, writer):
                head = f"POST / HTTP/1.1\r\nHost: {host_of(path, port)}\r\nConnection: close\r\n"
                writer.write(f"{head}X-API-Key: {platform.key.reveal()}\r\n{rest}".encode())
                got = await everything(reader)
                assert got.count(b"HTTP/1.1 ") == 1
            heads = [line for head in seen for line in head]
            assert len(seen) <= 1
            assert not any(line.lower().startswith(b"transfer-encoding") for line in heads)
            assert all(line == f"content-length: {len(INNER)}".encode() for line in heads if b"ength" in line)


async def test_a_head_without_end_is_cut(platform: Platform, path: str, subtests: pytest.Subtests):
    flood = {
        "one long header": b"X: " + b"a" * (4 * HEAD_LIMIT_B),
        "a long target": b"a" * (4 * HEAD_LIMIT_B),
        "many headers": b"X: a\r\n" * (HEADER_LIMIT + 1),
    }
    for name, more in flood.items():
        with subtests.test(name):
            async with visited(platform) as (reader, writer):
                begin = b"GET /" if name == "a long target" else b"GET / HTTP/1.1\r\nHost: x\r\n"
                writer.write(begin + more)
                got = await everything(reader)
                assert got == b"" or got.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))
    assert (await platform.api.get("/health")).status_code == 200


class Impatient(BoundedHttp):
    head_timeout_s = 0.3
    body_silence_s = 0.3


async def test_who_is_slow_with_head_or_body_is_hung_up_on(subtests: pytest.Subtests):
    async def app(scope: object, receive: object, send: object) -> None:
        await receive_all(receive)  # type: ignore[arg-type]
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 204, "headers": headers})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b""})  # type: ignore[operator]

    async def receive_all(receive: object) -> None:
        while (message := await receive())["type"] == "http.request" and message["more_body"]:  # type: ignore[operator]
            pass

    config = uvicorn.Config(app, http=Impatient, host="127.0.0.1", port=0, lifespan="off", log_config=None)  # type: ignore[arg-type]
    slow = {
        "says nothing": b"",
        "stops in the head": b"GET / HTTP/1.1\r\nHos",
        "stops in the body": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",
        "stops in the second head": b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET",
    }
    async with served(config) as port, asyncio.timeout(DEADLINE_S):
        for name, beginning in slow.items():
            with subtests.test(name):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(beginning)
                await everything(reader)  # ends, and that is the point
                writer.close()


def sending(answer: bytes, *, then_close: bool = True) -> Handler:
    """A program that answers its first request with these bytes."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(answer)
        await writer.drain()
        if not then_close:
            await reader.read()

    return handler


BAD_ANSWERS: dict[str, bytes] = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "status 999": b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n",
    "switched protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\na",
    "a length without end": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\na",
    "zero byte in a header": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 10_000 + b"\r\n",
    "a long header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * MIB + b"\r\n\r\n",
    "a long reason": b"HTTP/1.1 200 " + b"a" * MIB + b"\r\n\r\n",
}


async def test_an_invalid_response_is_reported(platform: Platform, path: str, subtests: pytest.Subtests):
    for name, answer in BAD_ANSWERS.items():
        with subtests.test(name):
            async with program(sending(answer)) as port, asyncio.timeout(DEADLINE_S):
                got = await platform.api.get("/", headers=headers_of(path, port))
                assert got.status_code == 502, got.text
                assert got.json()["error"]["code"] == "agent_error"


async def test_a_head_that_never_ends_is_cut(platform: Platform, path: str):
    ended = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n")
        try:
            while True:
                writer.write(b"X-More: again\r\n" * 100)
                await writer.drain()
        finally:
            ended.set()

    async with program(handler) as port, asyncio.timeout(DEADLINE_S):
        assert (await platform.api.get("/", headers=headers_of(path, port))).status_code == 502
        await ended.wait()


BROKEN_ANSWERS: dict[str, bytes] = {
    "too short": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
    "no last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "a bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\nabc",
    "a chunk size without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    + b"1" * 9999,
}


async def test_an_answer_that_breaks_off_is_never_a_success(
    platform: Platform, path: str, subtests: pytest.Subtests
):
    for name, answer in BROKEN_ANSWERS.items():
        with subtests.test(name):
            async with program(sending(answer)) as port, visited(platform) as (reader, writer):
                head = f"GET / HTTP/1.1\r\nHost: {host_of(path, port)}\r\n"
                writer.write(f"{head}X-API-Key: {platform.key.reveal()}\r\n\r\n".encode())
                got = await everything(reader)
                assert not got.endswith(b"0\r\n\r\n")
                if name == "too short":
                    assert b"content-length: 10\r\n" in got
                # Told before the head, or cut behind it.
                assert got.startswith(b"HTTP/1.1 502 ") or len(got.partition(b"\r\n\r\n")[2]) < 10


async def test_what_follows_an_answer_is_nobodys(platform: Platform, path: str):
    """A second answer behind the first is not taken for that of the next request."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst" + OK.replace(b"ok", b"no")
    async with program(answering(answer)) as port, asyncio.timeout(DEADLINE_S):
        for _ in range(5):
            assert (await platform.api.get("/", headers=headers_of(path, port))).text == "first"


async def test_lengths_and_chunks_together_are_read_as_chunks(platform: Platform, path: str):
    answer = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    async with program(sending(answer)) as port, asyncio.timeout(DEADLINE_S):
        got = await platform.api.get("/", headers=headers_of(path, port))
        assert (got.status_code, got.text) in [(200, "abc"), (502, got.text)]
        assert "content-length" not in got.headers or got.status_code == 502


IN_FLIGHT_B = 32 * MIB
"""The kernel's buffers of four connections, and what the relays read ahead."""


async def moved(written: list[int]) -> int:
    """How many bytes were taken, once no more are."""
    before = -1
    while written[0] != before:
        before = written[0]
        await asyncio.sleep(0.5)
    return before


async def test_a_reader_that_does_not_read_stops_the_writer(platform: Platform, path: str):
    written = [0]

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            written[0] += 65536

    async with program(flood) as port, visited(platform) as (reader, writer):
        head = f"GET / HTTP/1.1\r\nHost: {host_of(path, port)}\r\n"
        writer.write(f"{head}X-API-Key: {platform.key.reveal()}\r\n\r\n".encode())
        await read_head(reader)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        assert 0 < await moved(written) < IN_FLIGHT_B


async def test_a_program_that_does_not_read_stops_the_upload(platform: Platform, path: str):
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    written = [0]
    async with program(deaf) as port, visited(platform) as (_, writer):
        head = f"POST / HTTP/1.1\r\nHost: {host_of(path, port)}\r\nContent-Length: 999999999999\r\n"
        writer.write(f"{head}X-API-Key: {platform.key.reveal()}\r\n\r\n".encode())

        async def upload() -> None:
            while True:
                writer.write(bytes(65536))
                await writer.drain()
                written[0] += 65536

        task = asyncio.create_task(upload())
        assert 0 < await moved(written) < IN_FLIGHT_B
        task.cancel()
        await asyncio.wait({task})


async def upgraded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the handshake of a WebSocket."""
    head = await read_head(reader)
    named = dict(line.lower().split(b": ", 1) for line in head[1:])
    key = next(line.split(b": ")[1] for line in head if line.lower().startswith(b"sec-websocket-key"))
    assert named[b"upgrade"] == b"websocket"
    accept = accept_key(key.decode()).encode()
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    await writer.drain()


BAD_FRAMES: dict[str, tuple[bytes, int]] = {
    "an over-long frame": (b"\x82\x7f" + (1 << 40).to_bytes(8, "big"), 1009),
    "an unknown kind": (b"\x83\x00", 1002),
    "a long ping": (b"\x89\x7e\x01\x00" + bytes(256), 1002),
    "text that is none": (b"\x81\x02\xff\xff", 1007),
    "half a frame": (b"\x82\x05ab", 1011),
    "no frame": (b"", 1011),
}


async def test_bad_frames_end_a_socket_with_a_reason(
    platform: Platform, path: str, subtests: pytest.Subtests
):
    for name, (frame, code) in BAD_FRAMES.items():
        with subtests.test(name):

            async def handler(
                reader: asyncio.StreamReader,
                writer: asyncio.StreamWriter,
                frame: bytes = frame,
                code: int = code,
            ) -> None:
                await upgraded(reader, writer)
                writer.write(frame)
                await writer.drain()
                if code != 1011:
                    await reader.read()

            async with program(handler) as port, asyncio.timeout(DEADLINE_S):
                async with socket(platform, path, port) as ws:
                    with pytest.raises(websockets.ConnectionClosed):
                        await ws.recv()
                    assert ws.close_code == code


REFUSED_HANDSHAKES: dict[str, tuple[bytes, int]] = {
    "a plain one": (b"X-Why: no", 403),
    "no UTF-8": (b"X-Why: \xff\xfe", 403),
    "a control character": (b"X-Why: a\x01b", 502),
    "a name that is none": (b"X\xffWhy: a", 502),
}


async def test_a_refused_handshake_is_reported_whatever_its_headers_are(
    platform: Platform, path: str, subtests: pytest.Subtests
):
    for name, (header, status) in REFUSED_HANDSHAKES.items():
        with subtests.test(name):
            answer = b"HTTP/1.1 403 Forbidden\r\n" + header + b"\r\nContent-Length: 0\r\n\r\n"
            async with program(sending(answer)) as port, asyncio.timeout(DEADLINE_S):
                with pytest.raises(websockets.InvalidStatus) as raised:
                    async with socket(platform, path, port):
                        pass
                assert raised.value.response.status_code == status


async def test_a_message_in_endless_fragments_is_cut(platform: Platform, path: str):
    written = [0]

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upgraded(reader, writer)
        head = b"\x02\x7f" + (65536).to_bytes(8, "big")
        while True:
            writer.write(head + bytes(65536))
            await writer.drain()
            written[0] += 65536
            head = b"\x00" + head[1:]

    async with program(handler) as port, asyncio.timeout(DEADLINE_S):
        async with socket(platform, path, port, max_size=None) as ws:
            with pytest.raises(websockets.ConnectionClosed):
                await ws.recv()
            assert ws.close_code == 1009
    assert written[0] < 2 * IN_FLIGHT_B
