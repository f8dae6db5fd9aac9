"""One WebSocket: opened there first, then accepted; messages both ways; its end told with its code."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import aiohttp
from yarl import URL

from wrenn.base.errors import AgentFailure
from wrenn.base.units import MIB
from wrenn.relay.asgi import Receive, Scope, Send, gone_of
from wrenn.relay.connections import PacedConnection
from wrenn.relay.headers import Headers, end_to_end, for_client, from_client, is_sound
from wrenn.relay.pace import Pace

MESSAGE_LIMIT_B: Final = 16 * MIB
"""Longest message, which is held whole; a longer one ends the connection with 1009."""
HANDSHAKE_TIMEOUT_S: Final = 60.0
_CLOSE_TIMEOUT_S: Final = 5.0
"""For the whole closing handshake, whatever the other side sends meanwhile."""
_CLOSE_MESSAGES: Final = 1024
"""Messages of the other side that are read, and dropped, while its close is waited for."""
_STALL_S: Final = 600.0
"""Who takes nothing for so long is given up."""
PING_BURST: Final = 64
PINGS_PER_S: Final = 10.0
"""Pings and pongs of a program that are answered or dropped. More are no keep-alive, and end the connection."""
TOO_MANY_PINGS: Final = 1008
_REASON_LIMIT_B: Final = 123
ABNORMAL: Final = 1011
"""What a client is told when the other side broke off without a word."""
GOING_AWAY: Final = 1001
"""What a program is told when its client did."""
RESTART: Final = 1012
"""What a client is told when the sandbox is put away: it may come again."""


class SocketRefused(Exception):
    """The other side answered the handshake with an ordinary answer."""

    def __init__(self, status: int, headers: Headers) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers


async def connect_socket(
    session: aiohttp.ClientSession, scope: Scope, url: URL, headers: Headers
) -> aiohttp.ClientWebSocketResponse:
    """Open the WebSocket of `scope` at `url`, with its subprotocols. Its extensions are each connection's own.

    Raises:
        SocketRefused: the other side does not want it. TimeoutError, and what the HTTP client raises besides.
    """
    passed = [(name, value) for name, value in end_to_end(headers) if not name.startswith(b"sec-websocket-")]
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            other = await session.ws_connect(
                url,
                headers=for_client(passed),
                protocols=scope["subprotocols"],
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),  # pyright: ignore[reportCallIssue] - attrs
                max_msg_size=MESSAGE_LIMIT_B,
                autoclose=False,  # it would answer every code with 1000
                autoping=False,  # it would answer pings without an end, and nobody else had a turn
            )
            if (connection := _connection_of(other)) is not None:
                connection.count_messages()
            return other
    except aiohttp.WSServerHandshakeError as error:
        told = from_client(error.headers.items()) if error.headers is not None else []
        if not all(is_sound(name, value) for name, value in told):
            raise AgentFailure(
                "The program in the sandbox refused the WebSocket with a malformed header."
            ) from error
        raise SocketRefused(error.status, told) from error


_Ending = tuple[int, str]
"""A close code and a reason."""


async def relay_socket(
    other: aiohttp.ClientWebSocketResponse,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    traffic: Callable[[], None],
    pace: Pace,
) -> None:
    """Accept the client's WebSocket and pass messages until either side ends; the other one is told why.

    Afterwards the connection to the other side is closed. A cancellation leaves the client's side open, for the caller to say why.
    """
    ending: _Ending | None = None
    try:
        await send({"type": "websocket.accept", "subprotocol": other.protocol, "headers": []})
        ending = await _passed(other, gone_of(scope), receive, send, traffic=traffic, pace=pace)
        if ending is not None:
            await _say_end(other, ending, pace)
    finally:
        cut_socket(other)


async def _passed(
    other: aiohttp.ClientWebSocketResponse,
    gone: asyncio.Event,
    receive: Receive,
    send: Send,
    *,
    traffic: Callable[[], None],
    pace: Pace,
) -> _Ending | None:
    """Pass messages both ways; returns what the other side is to be told at the end, None: nothing."""
    back = asyncio.create_task(_back(other, send, traffic, pace))
    there = asyncio.create_task(_there(other, receive, traffic))
    leaving = asyncio.create_task(gone.wait())
    try:
        await asyncio.wait({back, there, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not there.done() and (leaving.done() or back.result() is None):
            # The client is gone. What it said last may still be on its way.
            await asyncio.wait({there}, timeout=_CLOSE_TIMEOUT_S)
        if there.done() and there.result() is None and not back.done():
            # The program's side broke: `_back` sees it, and tells the client.
            await asyncio.wait({back}, timeout=_CLOSE_TIMEOUT_S)
        if there.done() and (said := there.result()) is not None:
            return said
        return (back.result() if back.done() else None) or (GOING_AWAY, "")
    finally:
        for task in (back, there, leaving):
            task.cancel()
        await asyncio.wait({back, there, leaving})


async def _there(
    other: aiohttp.ClientWebSocketResponse, receive: Receive, traffic: Callable[[], None]
) -> _Ending | None:
    """Pass the client's messages on; returns how it ended, None: the other side takes no more."""
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            # The server has no reason, not even an empty one, for a connection that broke.
            code = message.get("code", GOING_AWAY) if "reason" in message else GOING_AWAY
            return _sayable(code, GOING_AWAY), message.get("reason") or ""
        if message["type"] != "websocket.receive":
            continue
        traffic()
        try:
            async with asyncio.timeout(_STALL_S):
                if (data := message.get("bytes")) is not None:
                    await other.send_bytes(data)
                else:
                    await other.send_str(message["text"])
        except (aiohttp.ClientError, OSError):  # TimeoutError too
            return None


async def _back(
    other: aiohttp.ClientWebSocketResponse, send: Send, traffic: Callable[[], None], pace: Pace
) -> _Ending | None:
    """Pass the other side's messages back; returns how it ended, once the client was told. None: the client is gone."""
    try:
        return await _pass_back(other, send, traffic, pace)
    except OSError:
        return None


async def _pass_back(
    other: aiohttp.ClientWebSocketResponse, send: Send, traffic: Callable[[], None], pace: Pace
) -> _Ending:
    pings = _Pings()
    while True:
        message: Any = await other.receive()
        size_b = 0
        match message.type:
            case aiohttp.WSMsgType.TEXT | aiohttp.WSMsgType.BINARY:
                traffic()
                kind = "text" if message.type is aiohttp.WSMsgType.TEXT else "bytes"
                size_b = len(message.data)
                if (connection := _connection_of(other)) is not None:
                    connection.message_taken()
                async with asyncio.timeout(_STALL_S):
                    await send({"type": "websocket.send", kind: message.data})
            case aiohttp.WSMsgType.PING | aiohttp.WSMsgType.PONG if pings.is_one_more_fine():
                if (connection := _connection_of(other)) is not None:
                    connection.control_frame_taken(len(message.data))
                if message.type is aiohttp.WSMsgType.PING:
                    with suppress(aiohttp.ClientError, OSError):  # the next read tells
                        async with asyncio.timeout(_STALL_S):
                            await other.pong(message.data)
            case aiohttp.WSMsgType.PING | aiohttp.WSMsgType.PONG:
                ending = (TOO_MANY_PINGS, "too many pings")
                await send({"type": "websocket.close", "code": ending[0], "reason": ending[1]})
                return ending
            case aiohttp.WSMsgType.CLOSE:
                ending = (_sayable(message.data, ABNORMAL), str(message.extra or ""))
                await send({"type": "websocket.close", "code": ending[0], "reason": ending[1]})
                return ending
            case _:  # closed by us, broken off, or a frame that cannot be
                ending = (_sayable(other.close_code or ABNORMAL, ABNORMAL), "")
                await send({"type": "websocket.close", "code": ending[0], "reason": ""})
                return ending
        # Reading what has come already is no wait, nor is sending it: the others would have no turn.
        await pace.passed(size_b=size_b)


class _Pings:
    """Counts the pings and pongs of one connection."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time()
        self._left: float = PING_BURST

    def is_one_more_fine(self) -> bool:
        """Take note of one; False: it is one too many."""
        now = self._loop.time()
        self._left = min(PING_BURST, self._left + (now - self._at) * PINGS_PER_S) - 1
        self._at = now
        return self._left >= 0


async def _say_end(other: aiohttp.ClientWebSocketResponse, ending: _Ending, pace: Pace) -> None:
    """Tell the other side how it ended, and wait a moment for its answer, so that it gets what it was told."""
    code, reason = ending
    with suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await other.send_frame(struct.pack("!H", code) + _reason(reason), aiohttp.WSMsgType.CLOSE)
            if other.close_code is not None:
                return  # it was the first to say so
            for _ in range(_CLOSE_MESSAGES):
                message: Any = await other.receive()
                if message.type not in _GOES_ON:
                    return
                await pace.passed()


_GOES_ON: Final = frozenset(
    {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.PING, aiohttp.WSMsgType.PONG}
)


def cut_socket(other: aiohttp.ClientWebSocketResponse) -> None:
    """Close the connection without a handshake: its own `close` waits for one as long as anything comes."""
    other._response.close()  # pyright: ignore[reportPrivateUsage] - there is no public way


def _connection_of(other: aiohttp.ClientWebSocketResponse) -> PacedConnection | None:
    """None: it is closed, or not of a `PacedConnector`."""
    held = other._conn  # pyright: ignore[reportPrivateUsage] - there is no public way
    protocol = None if held is None else held.protocol
    return protocol if isinstance(protocol, PacedConnection) else None


def _sayable(code: int, otherwise: int) -> int:
    """A close code as it may be sent: "no code" is said as the usual end, "broke off" as `otherwise`."""
    if (
        code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014)
        or 3000 <= code <= 4999
    ):
        return code
    return 1000 if code in (0, 1005) else otherwise


def _reason(text: str | None) -> bytes:
    return (text or "").encode()[:_REASON_LIMIT_B].decode(errors="ignore").encode()


async def send_refusal(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Answer the handshake of a WebSocket with an ordinary answer."""
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
