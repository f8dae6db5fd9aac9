"""Proxies one WebSocket: connects to the guest first, then accepts the client, and forwards messages and close codes both ways."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import aiohttp
from yarl import URL

from wrenn.base.errors import AgentFailure
from wrenn.base.units import MIB
from wrenn.relay.asgi import Receive, Scope, Send, disconnect_event
from wrenn.relay.connections import PacedConnection
from wrenn.relay.headers import Headers, end_to_end, for_client, from_client, is_sound
from wrenn.relay.pace import Pace

MESSAGE_LIMIT_B: Final = 16 * MIB
"""Longest message, which is buffered whole. A longer one closes the connection with code 1009."""
HANDSHAKE_TIMEOUT_S: Final = 60.0
_CLOSE_TIMEOUT_S: Final = 5.0
"""For the whole closing handshake, whatever the peer sends meanwhile."""
_CLOSE_MESSAGES: Final = 1024
"""Messages of the peer that are read and dropped while waiting for its close frame."""
_STALL_S: Final = 600.0
"""A peer that takes nothing for this long is given up."""
PING_BURST: Final = 64
PINGS_PER_S: Final = 10.0
"""Rate of pings and pongs of a program that are answered or dropped. More are no keep-alive, and close the
connection."""
TOO_MANY_PINGS: Final = 1008
_REASON_LIMIT_B: Final = 123
ABNORMAL: Final = 1011
"""The close code for the client when the connection to the guest broke."""
GOING_AWAY: Final = 1001
"""The close code for the guest when the client disconnected."""
RESTART: Final = 1012
"""The close code for the client when the sandbox is paused or stopped: it may connect again."""


class WebSocketRefused(Exception):
    """The peer answered the handshake with an ordinary HTTP response."""

    def __init__(self, status: int, headers: Headers) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers


async def connect_websocket(
    session: aiohttp.ClientSession,
    scope: Scope,
    url: URL,
    headers: Headers,
    *,
    tls: ssl.SSLContext | bool = True,
    server_name: str | None = None,
) -> aiohttp.ClientWebSocketResponse:
    """Open the WebSocket of `scope` at `url`, with its subprotocols. Extensions are negotiated for each connection separately.

    `server_name`: as `Request.asked`.

    Raises:
        WebSocketRefused: the peer declined the handshake.
        TimeoutError, aiohttp.ClientError: the connection failed.
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
                autoclose=False,  # aiohttp would close with 1000, whatever the code
                ssl=tls,
                server_hostname=server_name,
                autoping=False,  # aiohttp would answer any number of pings without yielding to other tasks
            )
            if (connection := _connection_of(other)) is not None:
                connection.count_messages()
            return other
    except aiohttp.WSServerHandshakeError as error:
        response_headers = from_client(error.headers.items()) if error.headers is not None else []
        if not all(is_sound(name, value) for name, value in response_headers):
            raise AgentFailure(
                "The program in the sandbox refused the WebSocket with a malformed header."
            ) from error
        raise WebSocketRefused(error.status, response_headers) from error


_Ending = tuple[int, str]
"""Close code and reason."""


async def relay_websocket(
    other: aiohttp.ClientWebSocketResponse,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    traffic: Callable[[], None],
    pace: Pace,
) -> None:
    """Accept the client's WebSocket and forward messages until either side closes; the other side gets its close code.

    Afterwards the connection to the peer is closed. On cancellation the client's side stays open, so that the
    caller can close it with a code of its own.
    """
    ending: _Ending | None = None
    try:
        await send({"type": "websocket.accept", "subprotocol": other.protocol, "headers": []})
        ending = await _forward(other, disconnect_event(scope), receive, send, traffic=traffic, pace=pace)
        if ending is not None:
            await _send_close(other, ending, pace)
    finally:
        abort_websocket(other)


async def _forward(
    other: aiohttp.ClientWebSocketResponse,
    gone: asyncio.Event,
    receive: Receive,
    send: Send,
    *,
    traffic: Callable[[], None],
    pace: Pace,
) -> _Ending | None:
    """Forward messages both ways. Returns the close code and reason for the peer, or None if it needs none."""
    to_client = asyncio.create_task(_peer_to_client(other, send, traffic, pace))
    to_peer = asyncio.create_task(_client_to_peer(other, receive, traffic))
    disconnect = asyncio.create_task(gone.wait())
    try:
        await asyncio.wait({to_client, to_peer, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not to_peer.done() and (disconnect.done() or to_client.result() is None):
            # The client has disconnected. Its last messages may still be in transit.
            await asyncio.wait({to_peer}, timeout=_CLOSE_TIMEOUT_S)
        if to_peer.done() and to_peer.result() is None and not to_client.done():
            # The connection to the program broke. `_peer_to_client` detects it and closes the client's side.
            await asyncio.wait({to_client}, timeout=_CLOSE_TIMEOUT_S)
        if to_peer.done() and (said := to_peer.result()) is not None:
            return said
        return (to_client.result() if to_client.done() else None) or (GOING_AWAY, "")
    finally:
        for task in (to_client, to_peer, disconnect):
            task.cancel()
        await asyncio.wait({to_client, to_peer, disconnect})


async def _client_to_peer(
    other: aiohttp.ClientWebSocketResponse, receive: Receive, traffic: Callable[[], None]
) -> _Ending | None:
    """Forward the client's messages. Returns how the client closed, or None if the peer takes no more."""
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            # For a broken connection the server reports no reason, not even an empty one.
            code = message.get("code", GOING_AWAY) if "reason" in message else GOING_AWAY
            return _sendable_code(code, GOING_AWAY), message.get("reason") or ""
        if message["type"] != "websocket.receive":
            continue
        traffic()
        try:
            async with asyncio.timeout(_STALL_S):
                if (data := message.get("bytes")) is not None:
                    await other.send_bytes(data)
                else:
                    await other.send_str(message["text"])
        except (aiohttp.ClientError, OSError):  # includes TimeoutError
            return None


async def _peer_to_client(
    other: aiohttp.ClientWebSocketResponse, send: Send, traffic: Callable[[], None], pace: Pace
) -> _Ending | None:
    """Forward the peer's messages. Returns how the peer closed, after the client was informed, or None if the client has disconnected."""
    try:
        return await _forward_to_client(other, send, traffic, pace)
    except OSError:
        return None


async def _forward_to_client(
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
            case aiohttp.WSMsgType.PING | aiohttp.WSMsgType.PONG if pings.allow():
                if (connection := _connection_of(other)) is not None:
                    connection.control_frame_taken(len(message.data))
                if message.type is aiohttp.WSMsgType.PING:
                    with suppress(aiohttp.ClientError, OSError):  # the next read raises the error
                        async with asyncio.timeout(_STALL_S):
                            await other.pong(message.data)
            case aiohttp.WSMsgType.PING | aiohttp.WSMsgType.PONG:
                ending = (TOO_MANY_PINGS, "too many pings")
                await send({"type": "websocket.close", "code": ending[0], "reason": ending[1]})
                return ending
            case aiohttp.WSMsgType.CLOSE:
                ending = (_sendable_code(message.data, ABNORMAL), str(message.extra or ""))
                await send({"type": "websocket.close", "code": ending[0], "reason": ending[1]})
                return ending
            case _:  # closed by us, connection broken, or an invalid frame
                ending = (_sendable_code(other.close_code or ABNORMAL, ABNORMAL), "")
                await send({"type": "websocket.close", "code": ending[0], "reason": ""})
                return ending
        # Neither receiving what is buffered nor sending it yields, so without this other tasks would not run.
        await pace.passed(size_b=size_b)


class _Pings:
    """Rate limit on the pings and pongs of one connection."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time()
        self._left: float = PING_BURST

    def allow(self) -> bool:
        """Count one ping or pong; return False if it exceeds the limit."""
        now = self._loop.time()
        self._left = min(PING_BURST, self._left + (now - self._at) * PINGS_PER_S) - 1
        self._at = now
        return self._left >= 0


async def _send_close(other: aiohttp.ClientWebSocketResponse, ending: _Ending, pace: Pace) -> None:
    """Send the close frame to the peer, and wait a moment for its own, so that the peer receives ours."""
    code, reason = ending
    with suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await other.send_frame(struct.pack("!H", code) + _reason(reason), aiohttp.WSMsgType.CLOSE)
            if other.close_code is not None:
                return  # the peer closed first
            for _ in range(_CLOSE_MESSAGES):
                message: Any = await other.receive()
                if message.type not in _NOT_A_CLOSE:
                    return
                await pace.passed()


_NOT_A_CLOSE: Final = frozenset(
    {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.PING, aiohttp.WSMsgType.PONG}
)


def abort_websocket(other: aiohttp.ClientWebSocketResponse) -> None:
    """Close the connection without a handshake. aiohttp's `close` waits for the handshake as long as data arrives."""
    other._response.close()  # pyright: ignore[reportPrivateUsage] - there is no public way


def _connection_of(other: aiohttp.ClientWebSocketResponse) -> PacedConnection | None:
    """Return the protocol of the connection, or None if it is closed or not made by a `PacedConnector`."""
    held = other._conn  # pyright: ignore[reportPrivateUsage] - there is no public way
    protocol = None if held is None else held.protocol
    return protocol if isinstance(protocol, PacedConnection) else None


def _sendable_code(code: int, otherwise: int) -> int:
    """Return a close code that may be sent: 1000 for "no code", `otherwise` for an abnormal end."""
    if (
        code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014)
        or 3000 <= code <= 4999
    ):
        return code
    return 1000 if code in (0, 1005) else otherwise


def _reason(text: str | None) -> bytes:
    return (text or "").encode()[:_REASON_LIMIT_B].decode(errors="ignore").encode()


async def send_refusal(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Answer the handshake of a WebSocket with an ordinary HTTP response."""
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
