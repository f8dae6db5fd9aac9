"""One WebSocket: opened there first, then accepted; messages both ways; its end told with its code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import aiohttp
from yarl import URL

from wrenn.base.units import MIB
from wrenn.relay.asgi import Receive, Scope, Send
from wrenn.relay.headers import Headers, end_to_end, for_client

MESSAGE_LIMIT_B: Final = 16 * MIB
"""Longest message, which is held whole; a longer one ends the connection with 1009."""
HANDSHAKE_TIMEOUT_S: Final = 60.0
_CLOSE_TIMEOUT_S: Final = 5.0
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
            return await session.ws_connect(
                url,
                headers=for_client(passed),
                protocols=scope["subprotocols"],
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),  # pyright: ignore[reportCallIssue] - attrs
                max_msg_size=MESSAGE_LIMIT_B,
                autoclose=False,  # it would answer every code with 1000
            )
    except aiohttp.WSServerHandshakeError as error:
        told = error.headers.items() if error.headers is not None else ()
        raise SocketRefused(error.status, [(k.lower().encode(), v.encode()) for k, v in told]) from error


async def relay_socket(
    other: aiohttp.ClientWebSocketResponse, receive: Receive, send: Send, traffic: Callable[[], None]
) -> None:
    """Accept the client's WebSocket and pass messages until either side ends; the other one is told why.

    A cancellation leaves the client's side open, for the caller to say why.
    """
    await send({"type": "websocket.accept", "subprotocol": other.protocol, "headers": []})
    back = asyncio.create_task(_back(other, send, traffic))
    there = asyncio.create_task(_there(other, receive, traffic))
    try:
        await asyncio.wait({back, there}, return_when=asyncio.FIRST_COMPLETED)
        if not there.done() and other.close_code is None:
            # Nothing came back because the client is gone; what is told there is on its way.
            await asyncio.wait({there}, timeout=_CLOSE_TIMEOUT_S)
        for task in (back, there):
            if task.done():
                task.result()
    finally:
        for task in (back, there):
            task.cancel()
        await asyncio.wait({back, there})


async def _there(
    other: aiohttp.ClientWebSocketResponse, receive: Receive, traffic: Callable[[], None]
) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            # The server has no reason, not even an empty one, for a connection that broke.
            code = message.get("code", GOING_AWAY) if "reason" in message else GOING_AWAY
            await other.close(code=_sayable(code, GOING_AWAY), message=_reason(message.get("reason")))
            return
        if message["type"] != "websocket.receive":
            continue
        traffic()
        try:
            if (data := message.get("bytes")) is not None:
                await other.send_bytes(data)
            else:
                await other.send_str(message["text"])
        except (aiohttp.ClientError, OSError):
            return  # `_back` sees the end with its code


async def _back(other: aiohttp.ClientWebSocketResponse, send: Send, traffic: Callable[[], None]) -> None:
    with suppress(OSError):  # the client is gone: `_there` tells the other side
        await _pass_back(other, send, traffic)


async def _pass_back(other: aiohttp.ClientWebSocketResponse, send: Send, traffic: Callable[[], None]) -> None:
    while True:
        message: Any = await other.receive()
        match message.type:
            case aiohttp.WSMsgType.TEXT:
                traffic()
                await send({"type": "websocket.send", "text": message.data})
            case aiohttp.WSMsgType.BINARY:
                traffic()
                await send({"type": "websocket.send", "bytes": message.data})
            case aiohttp.WSMsgType.CLOSE:
                code, reason = _sayable(message.data, ABNORMAL), str(message.extra or "")
                await send({"type": "websocket.close", "code": code, "reason": reason})
                await other.close(code=code, message=_reason(reason))
                return
            case _:  # closed by us, broken off, or a frame that cannot be
                code = _sayable(other.close_code or ABNORMAL, ABNORMAL)
                await send({"type": "websocket.close", "code": code, "reason": ""})
                return


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
