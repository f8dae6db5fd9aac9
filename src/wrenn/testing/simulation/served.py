"""ASGI applications of simulated programs, served over the network in memory that may lose, double and delay messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from wrenn.base.tasks import OwnedTasks
from wrenn.relay import SERVER_OPTIONS
from wrenn.testing.simulation.network import MemoryTransport

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fate:
    """What the network does to one request and its answer.

    Attributes:
        is_lost: the request never arrives.
        is_answer_lost: it is carried out, and the answer never arrives.
        delay_s: it arrives so much later, even if its sender has gone by then.
        again_s: a second copy arrives so much after the first, whose answer nobody gets; None: there is none.
    """

    is_lost: bool = False
    is_answer_lost: bool = False
    delay_s: float = 0.0
    again_s: float | None = None


class Wire:
    """An application that gets each request as the network delivers it. `fate_of` says how, by sender and path.

    Only requests whose whole body fits are touched: streams and WebSockets pass.
    """

    def __init__(self, application: Application, fate_of: Callable[[str, str], Fate]) -> None:
        self._application = application
        self._fate_of = fate_of
        self._copies = OwnedTasks()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        client = scope.get("client") or ("", 0)
        fate = self._fate_of(client[0], scope["path"])
        if fate == Fate():
            await self._application(scope, receive, send)
            return
        body = await _whole_body(receive)
        if fate.is_lost or body is None:
            await _wait_gone(receive)
            return
        if fate.delay_s:
            await asyncio.sleep(fate.delay_s)
        if fate.again_s is not None:
            self._copies.start("doubled message", self._repeat(dict(scope), body, fate.again_s))
        if fate.is_answer_lost:
            await self._application(scope, _replay(body, receive), _nowhere)
            await _wait_gone(receive)
        else:
            await self._application(scope, _replay(body, receive), send)

    async def _repeat(self, scope: Message, body: bytes, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self._application(scope, _replay(body, _for_ever), _nowhere)


async def _whole_body(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body, and then whatever comes after it."""
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replaying() -> Message:
        return parts.pop() if parts else await receive()

    return replaying


async def _wait_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _for_ever() -> Message:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nothing ends this future")


async def _nowhere(message: Message) -> None:
    del message


class HttpListener:
    """Serves an application at an address, by the HTTP server of production. Implements `network.Listener`."""

    def __init__(self, application: Application) -> None:
        self._config = uvicorn.Config(application, timeout_keep_alive=75, **SERVER_OPTIONS)  # type: ignore[arg-type]
        self._config.load()
        self._state = ServerState()

    async def accept(self, port: int) -> asyncio.Protocol | None:
        """Accept a connection on any port."""
        del port
        protocol: Any = self._config.http_protocol_class
        return protocol(config=self._config, server_state=self._state, app_state={})

    def accepted(self, transport: MemoryTransport) -> None:
        """Do nothing: connections end with the program that opened them, or with `Network.reset`."""
