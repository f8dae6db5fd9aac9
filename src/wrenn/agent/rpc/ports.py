"""Serves ports of guests over plain HTTP and WebSocket. Bodies are streamed, never buffered whole.

`/sandboxes/{id}/ports/{port}/…` is the program's own `/…`; `/sandboxes/{id}/streams/{port}` (WebSocket) its bytes. Rules in
docs/design/ports.md.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Final
from urllib.parse import quote

import aiohttp

from wrenn.agent.rpc.guest_streams import GuestStream, StreamOpener
from wrenn.base.errors import InternalError, InvalidRequest, InvalidState, WrennError
from wrenn.base.ids import SandboxId
from wrenn.guest import dial_error
from wrenn.protocol.host.errors import ERROR_CODE_HEADER, ERROR_TEXT_HEADER
from wrenn.relay import (
    CallerDisconnected,
    Head,
    Headers,
    IncompleteResponse,
    Receive,
    Request,
    Scope,
    Send,
    WebSocketRefused,
    abort_response,
    connect_websocket,
    end_to_end,
    head_of,
    relay_stream,
    relay_websocket,
    send_refusal,
    send_response,
)

_log = logging.getLogger(__name__)

_PLACE: Final = re.compile(r"/sandboxes/([^/]+)/(ports|streams)/(\d{1,5})(/.*)?", re.ASCII | re.DOTALL)
_OURS: Final = b"wrenn-"
"""Headers between control plane and agent; a guest cannot send them."""
_RESTART: Final = 1012
_BROKEN: Final = 1011


class PortStreams:
    """ASGI application that forwards requests to ports of guests."""

    def __init__(self, sandboxes: StreamOpener) -> None:
        self._sandboxes = sandboxes

    @staticmethod
    def serves(scope: Scope) -> bool:
        """Return whether a request is for a guest's port."""
        return scope["type"] in ("http", "websocket") and _PLACE.fullmatch(_raw_path(scope)) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        started = ended = False

        async def send_noting(message: dict[str, object]) -> None:
            nonlocal started, ended
            started = True
            ended = message["type"] == "websocket.close"
            await send(message)

        try:
            await self._serve(scope, receive, send_noting)  # type: ignore[arg-type]
        except CallerDisconnected:
            return
        except IncompleteResponse as error:
            await abort_response(scope, receive, error)
            return
        except WrennError as error:
            failure = error
        except Exception:  # noqa: BLE001 - as in service.py
            _log.exception("connection to a port failed")
            failure = InternalError("The host could not pass the connection on; its log has the reason.")
        else:
            return
        if started and scope["type"] == "http":
            await abort_response(scope, receive, IncompleteResponse(failure.message))
        elif not ended:
            await _refuse(scope, send, failure, started=started)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = _PLACE.fullmatch(_raw_path(scope))
        assert place is not None, "`serves` has looked"
        sandbox_id, port = SandboxId.parse(place[1]), int(place[3])
        if not 1 <= port <= 65535:
            raise InvalidRequest("A port is a number from 1 to 65535.")
        async with self._sandboxes.open_stream(sandbox_id) as stream:
            if place[2] == "streams":
                await _stream(stream, port, scope, receive, send)
            elif scope["type"] == "websocket":
                await _socket(stream, port, _target(place, scope), scope=scope, receive=receive, send=send)
            else:
                await _request(stream, port, _target(place, scope), scope=scope, receive=receive, send=send)


def _raw_path(scope: Scope) -> str:
    return scope["raw_path"].decode("latin-1")


def _target(place: re.Match[str], scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return (place[4] or "/") + (f"?{query}" if query else "")


async def _request(
    stream: GuestStream, port: int, target: str, *, scope: Scope, receive: Receive, send: Send
) -> None:
    request = Request(scope, receive, stream.mark_active)
    await request.read_small_body()
    url = stream.ports.url(port, target)
    answered = False
    try:
        async with request.asked(stream.ports.session, url, end_to_end(scope["headers"])) as response:
            answered = True
            head = head_of(response)
            stream.mark_open(is_finite=True)
            stream.mark_active()
            head = Head(head.status, _without_ours(head.headers))
            await send_response(response, head, send, stream.mark_active)
    except (aiohttp.ClientError, TimeoutError, OSError, RuntimeError) as error:
        if answered:
            raise
        raise dial_error(error, port) from error


async def _socket(
    stream: GuestStream, port: int, target: str, *, scope: Scope, receive: Receive, send: Send
) -> None:
    await receive()  # websocket.connect
    url = stream.ports.url(port, target)
    try:
        other = await connect_websocket(stream.ports.session, scope, url, scope["headers"])
    except WebSocketRefused as refused:
        headers = [(n, v) for n, v in _without_ours(end_to_end(refused.headers)) if n != b"content-length"]
        await send_refusal(send, refused.status if 200 <= refused.status <= 599 else 502, headers, b"")
        return
    except (aiohttp.ClientError, TimeoutError, OSError, RuntimeError) as error:
        raise dial_error(error, port) from error
    stream.mark_open(is_finite=False)
    await relay_websocket(other, scope, receive, send, traffic=stream.mark_active, pace=stream.ports.pace)


async def _stream(stream: GuestStream, port: int, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "websocket":
        raise InvalidRequest("A stream is opened as a WebSocket.")
    await receive()  # websocket.connect
    reader, writer = await stream.ports.dial(port)
    try:
        stream.mark_open(is_finite=False)
        await relay_stream(
            reader, writer, scope, receive, send, traffic=stream.mark_active, pace=stream.ports.pace
        )
    finally:
        stream.ports.abort_stream(writer)


def _without_ours(headers: Headers) -> Headers:
    # The control plane's server writes the date itself.
    return [(name, value) for name, value in headers if not name.startswith(_OURS) and name != b"date"]


async def _refuse(scope: Scope, send: Send, error: WrennError, *, started: bool) -> None:
    if started:
        code = _RESTART if isinstance(error, InvalidState) else _BROKEN
        await send({"type": "websocket.close", "code": code, "reason": error.message[:100]})
        return
    body = json.dumps({"code": error.code, "message": error.message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (ERROR_CODE_HEADER.encode(), error.code.encode()),
        # A WebSocket's client is not shown the body.
        (ERROR_TEXT_HEADER.encode(), quote(error.message).encode()),
    ]
    if scope["type"] == "websocket":
        await send_refusal(send, error.http_status, headers, body)
        return
    # A body may have been refused while it is still on the way: the connection cannot be used again.
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
