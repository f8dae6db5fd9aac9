"""One client's request that is forwarded to a program: from its begin to an end that the client can understand.

The control plane and the agent differ in how they find the program, in the headers that they pass on, and in the form of their
errors; all else is here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import aiohttp
from uvicorn.protocols.utils import ClientDisconnected

from wrenn.base.errors import WrennError
from wrenn.relay.asgi import CallerDisconnected, Receive, Scope, Send
from wrenn.relay.headers import Headers, header_value
from wrenn.relay.http import Head, IncompleteResponse, Traffic, send_response
from wrenn.relay.pace import Pace
from wrenn.relay.server import abort_response
from wrenn.relay.sockets import WebSocketRefused, relay_websocket, send_refusal

_CONNECTION_ERRORS = (aiohttp.ClientError, TimeoutError, OSError, RuntimeError)
"""Of an exchange with the program. RuntimeError: its session was closed, for instance because the sandbox was paused."""

ErrorOf = Callable[[Exception], WrennError]


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a failed exchange ends.

    Attributes:
        status, headers, body: the response, if none has begun.
        close_code, close_reason: how a WebSocket is closed that was accepted before.
    """

    status: int
    headers: Headers
    body: bytes
    close_code: int
    close_reason: str = ""


async def serve_exchange(
    serve: Callable[[Scope, Receive, Send], Awaitable[None]],
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    refusal_of: Callable[[Exception], Refusal],
) -> None:
    """Run `serve`. If it fails, the client gets a refusal, or notices that its response is not whole."""
    started = ended = False

    async def send_noting(message: Any) -> None:
        nonlocal started, ended
        started = True
        ended = message["type"] == "websocket.close"
        await send(message)

    try:
        await serve(scope, receive, send_noting)
    except (CallerDisconnected, ClientDisconnected):
        return
    except IncompleteResponse as error:
        await abort_response(scope, receive, error)
    except Exception as error:  # noqa: BLE001 - the edge: the client must get an answer; `refusal_of` logs faults of ours
        refusal = refusal_of(error)
        if not started:
            await _refuse(scope, send, refusal)
        elif scope["type"] == "http":
            await abort_response(scope, receive, IncompleteResponse(str(error)))
        elif not ended:
            close = {"code": refusal.close_code, "reason": refusal.close_reason}
            await send({"type": "websocket.close", **close})


async def _refuse(scope: Scope, send: Send, refusal: Refusal) -> None:
    if scope["type"] == "websocket":
        await send_refusal(send, refusal.status, refusal.headers, refusal.body)
        return
    headers = refusal.headers
    if any(
        header_value(scope["headers"], name) is not None for name in (b"content-length", b"transfer-encoding")
    ):
        # The body may be on its way still, so the connection cannot be used again.
        headers = [*headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": refusal.body})


async def forward_request(
    asking: AbstractAsyncContextManager[aiohttp.ClientResponse],
    send: Send,
    *,
    head_of: Callable[[aiohttp.ClientResponse], Head],
    unreachable: ErrorOf,
    traffic: Traffic,
) -> None:
    """Forward one HTTP request, whose exchange `asking` begins, and stream the response back under the head that `head_of` returns.

    Raises:
        WrennError: by `unreachable`, if there was no response; by `head_of`.
        IncompleteResponse: the response ended early.
    """
    answered = False
    try:
        async with asking as response:
            answered = True
            await send_response(response, head_of(response), send, traffic)
    except _CONNECTION_ERRORS as error:
        if answered:
            raise
        raise unreachable(error) from error


async def forward_websocket(
    connecting: Awaitable[aiohttp.ClientWebSocketResponse],
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    refused_headers: Callable[[Headers], Headers],
    opened: Callable[[], None],
    unreachable: ErrorOf,
    traffic: Traffic,
    pace: Pace,
) -> None:
    """Forward one WebSocket, which `connecting` opens, to its end. If the program declines it, so does the client's handshake.

    Raises:
        WrennError: by `unreachable`, if there was no connection; by `refused_headers`.
    """
    try:
        other = await connecting
    except WebSocketRefused as refused:
        headers = [
            (name, value) for name, value in refused_headers(refused.headers) if name != b"content-length"
        ]
        await send_refusal(send, refused.status if 200 <= refused.status <= 599 else 502, headers, b"")
        return
    except _CONNECTION_ERRORS as error:
        raise unreachable(error) from error
    opened()
    await relay_websocket(other, scope, receive, send, traffic=traffic, pace=pace)
