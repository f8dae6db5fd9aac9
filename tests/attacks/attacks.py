"""The attacks. Each is an asynchronous context: inside it the attack runs, against a sandbox of the attacker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass

import httpx2
from websockets.asyncio.client import connect

from tests.attacks.guest_programs import HOSTILE_AGENT, HOSTILE_SERVER
from tests.attacks.kit import Target, in_background

PORT = 8000
VISITS = 6
WATCHES = 3
OUTPUT_B = 16_000_000
EXECS = 8
CLIENT_STAYS_S = 3.0
"""How long the client of a WebSocket flood stays; the flood goes on without it."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack.

    Attributes:
        name: what it does, as words.
        run: starts it; inside of the context it is under way.
        sampled: part of `make test`; `make test-attacks` runs all.
    """

    name: str
    run: Callable[[Target], AbstractAsyncContextManager[object]]
    sampled: bool = False


async def _visit(target: Target) -> None:
    """Visit the port as an impatient client: what comes is read and thrown away."""
    headers = {"X-Wrenn-Sandbox": target.sandbox_id, "X-Wrenn-Port": str(PORT)}
    while True:
        try:
            async with target.api.stream("GET", "/", headers=headers) as answer:
                async for _ in answer.aiter_raw():
                    pass
        except httpx2.HTTPError:
            pass
        await asyncio.sleep(0.05)


async def _open_socket(target: Target) -> None:
    """Open a WebSocket to the port, stay for a while, leave without a closing handshake, and come again."""
    url = target.platform.base_url.replace("http", "ws", 1) + "/"
    headers = {
        "X-API-Key": target.platform.key, "X-Wrenn-Sandbox": target.sandbox_id, "X-Wrenn-Port": str(PORT),
    }  # fmt: skip
    while True:
        try:
            socket = await connect(
                url, additional_headers=headers, proxy=None, max_queue=4, ping_interval=None
            )
            try:
                await asyncio.sleep(CLIENT_STAYS_S)
            finally:
                socket.transport.abort()
        except Exception:  # noqa: BLE001 - whatever the attacked connection raises, the client comes again
            await asyncio.sleep(0.05)


def _server(
    mode: str, *, socket: bool = False, visits: int = VISITS
) -> Callable[[Target], AbstractAsyncContextManager[object]]:
    @asynccontextmanager
    async def run(target: Target) -> AsyncGenerator[None]:
        await target.start(HOSTILE_SERVER, mode, str(PORT))
        await target.wait_listening(PORT)
        visit = _open_socket if socket else _visit
        async with in_background(*(visit(target) for _ in range(visits))):
            yield

    return run


async def _exec(target: Target) -> None:
    while True:
        with suppress(httpx2.HTTPError):
            await target.exec("true", timeout_s=60)
        await asyncio.sleep(0.05)


async def _watch(target: Target) -> None:
    while True:
        try:
            async with target.api.stream("GET", f"{target.path}/files/watch", params={"path": "/"}) as answer:
                async for _ in answer.aiter_raw():
                    pass
        except httpx2.HTTPError:
            pass
        await asyncio.sleep(0.05)


async def _stream(target: Target) -> None:
    url = target.platform.base_url.replace("http", "ws", 1) + f"{target.path}/exec/stream"
    while True:
        try:
            async with connect(
                url, additional_headers={"X-API-Key": target.platform.key}, proxy=None
            ) as socket:
                await socket.send('{"type": "start", "cmd": "true"}')
                async for _ in socket:
                    pass
        except Exception:  # noqa: BLE001 - as in `_open_socket`
            await asyncio.sleep(0.05)


async def _list(target: Target) -> None:
    while True:
        with suppress(httpx2.HTTPError):
            await target.api.get(f"{target.path}/processes")
            await target.api.post(f"{target.path}/files/list", json={"path": "/"})
        await asyncio.sleep(0.05)


def _agent(
    mode: str, *, execs: int = 1, lists: int = 0
) -> Callable[[Target], AbstractAsyncContextManager[object]]:
    @asynccontextmanager
    async def run(target: Target) -> AsyncGenerator[None]:
        await target.start(HOSTILE_AGENT, mode)
        await target.wait_agent_replaced()
        calls = [
            *(_exec(target) for _ in range(execs)),
            *(_watch(target) for _ in range(WATCHES)),
            _stream(target),
            *(_list(target) for _ in range(lists)),
        ]
        async with in_background(*calls):
            yield

    return run


def _output(source: str) -> Callable[[Target], AbstractAsyncContextManager[object]]:
    """Commands that write as much as one may, on both streams, several at once, again and again."""

    async def call(target: Target) -> None:
        script = f"head -c {OUTPUT_B} {source}; head -c {OUTPUT_B} {source} >&2"
        while True:
            try:
                answer = await target.exec("/bin/sh", "-c", script, timeout_s=60)
                assert answer.status_code in (200, 409, 413, 429, 504), answer.text[:500]
            except httpx2.HTTPError:
                pass
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def run(target: Target) -> AsyncGenerator[None]:
        async with in_background(*(call(target) for _ in range(EXECS))):
            yield

    return run


@asynccontextmanager
async def _fork_bomb(target: Target) -> AsyncGenerator[None]:
    """As many processes as the guest allows, all of them busy."""
    script = "while :; do (while :; do :; done) & done"
    body = {"cmd": "/bin/sh", "args": ["-c", script], "background": True, "tag": "hostile"}
    assert (await target.api.post(f"{target.path}/exec", json=body)).status_code == 202
    async with in_background(_exec(target)):
        yield


@asynccontextmanager
async def _slow_readers(target: Target) -> AsyncGenerator[None]:
    """Clients that ask for endless output and read none of it."""
    url = target.platform.base_url.replace("http", "ws", 1) + f"{target.path}/exec/stream"

    async def client() -> None:
        async with connect(
            url,
            additional_headers={"X-API-Key": target.platform.key},
            proxy=None,
            max_queue=1,
            ping_interval=None,
        ) as socket:
            await socket.send('{"type": "start", "cmd": "cat", "args": ["/dev/zero"], "encoding": "binary"}')
            await asyncio.Event().wait()

    async with in_background(*(client() for _ in range(16))):
        yield


ATTACKS: tuple[Attack, ...] = (
    Attack("endless 1xx answers of a port", _server("informational"), sampled=True),
    Attack("endless early hints of a port", _server("early-hints")),
    Attack("endless headers of a port", _server("headers")),
    Attack("a header without end of a port", _server("header-without-end")),
    Attack("endless chunks of one byte of a port", _server("chunks")),
    Attack("an endless chunk extension of a port", _server("chunk-extensions")),
    Attack("endless trailers of a port", _server("trailers")),
    Attack("an endless body of a port", _server("body")),
    Attack("endless pings of a port's WebSocket", _server("pings", socket=True), sampled=True),
    Attack("endless pongs of a port's WebSocket", _server("pongs", socket=True)),
    Attack("endless empty messages of a port's WebSocket", _server("empty-messages", socket=True)),
    Attack("endless fragments of a port's WebSocket", _server("fragments", socket=True)),
    Attack("endless messages of a port's WebSocket", _server("messages", socket=True)),
    Attack("a replaced guest agent sends empty frames", _agent("empty-frames"), sampled=True),
    Attack("a replaced guest agent sends small frames", _agent("small-frames")),
    Attack("a replaced guest agent sends output byte by byte", _agent("single-bytes", execs=4)),
    Attack("a replaced guest agent lists two million things", _agent("long-lists", lists=4)),
    Attack("a replaced guest agent sends endless 1xx answers", _agent("informational")),
    Attack("a replaced guest agent sends an endless body", _agent("body")),
    Attack("a replaced guest agent sends deep JSON", _agent("deep-json")),
    Attack("a replaced guest agent says nothing", _agent("silence")),
    Attack("eight commands write 16 MB of NUL bytes on both streams", _output("/dev/zero"), sampled=True),
    Attack("eight commands write 16 MB of random bytes on both streams", _output("/dev/urandom")),
    Attack("a fork bomb", _fork_bomb),
    Attack("sixteen clients that read nothing of an endless output", _slow_readers),
)
