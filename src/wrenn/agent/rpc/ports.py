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
from wrenn.protocol.guest_agent import GUEST_AGENT_PORT, HEALTH_PATH
from wrenn.protocol.host.errors import ERROR_CODE_HEADER, ERROR_TEXT_HEADER
from wrenn.relay import (
    Head,
    Headers,
    Receive,
    Refusal,
    Request,
    Scope,
    Send,
    connect_websocket,
    end_to_end,
    forward_request,
    forward_websocket,
    head_of,
    relay_stream,
    serve_exchange,
)

_log = logging.getLogger(__name__)

_PLACE: Final = re.compile(r"/sandboxes/([^/]+)/(ports|streams)/(\d{1,5})(/.*)?", re.ASCII | re.DOTALL)
_OURS: Final = b"wrenn-"
"""Headers between control plane and agent; a guest cannot send them."""
_GUEST_AGENT_STREAM: Final = "application/connect+"
"""Type of a response of the guest agent that follows a process or a directory."""
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
        await serve_exchange(self._serve, scope, receive, send, refusal_of=_refusal)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = _PLACE.fullmatch(_raw_path(scope))
        assert place is not None, "`serves` has looked"
        sandbox_id, port = SandboxId.parse(place[1]), int(place[3])
        if not 1 <= port <= 65535:
            raise InvalidRequest("A port is a number from 1 to 65535.")
        # Anybody may ask for the health, so that keeps no sandbox awake.
        is_use = port != GUEST_AGENT_PORT or place[4] != HEALTH_PATH
        async with self._sandboxes.open_stream(sandbox_id, counts_as_active=is_use) as stream:
            if place[2] == "streams":
                await _stream(stream, port, scope, receive, send)
            elif scope["type"] == "websocket":
                await _socket(stream, port, _target(place, scope), scope=scope, receive=receive, send=send)
            else:
                await _request(
                    stream,
                    port,
                    _target(place, scope),
                    scope=scope,
                    receive=receive,
                    send=send,
                    is_use=is_use,
                )


def _raw_path(scope: Scope) -> str:
    return scope["raw_path"].decode("latin-1")


def _target(place: re.Match[str], scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return (place[4] or "/") + (f"?{query}" if query else "")


async def _request(
    stream: GuestStream,
    port: int,
    target: str,
    *,
    scope: Scope,
    receive: Receive,
    send: Send,
    is_use: bool,
) -> None:
    mark_active = stream.mark_active if is_use else _no_use

    def answered(response: aiohttp.ClientResponse) -> Head:
        head = head_of(response)
        # A process that is followed runs on without its follower, and may never end.
        is_endless = port == GUEST_AGENT_PORT and response.content_type.startswith(_GUEST_AGENT_STREAM)
        stream.mark_open(is_finite=not is_endless)
        mark_active()
        return Head(head.status, _response_headers(head.headers))

    ports, headers = stream.ports, _without_ours(end_to_end(scope["headers"]))
    request = Request(scope, receive, mark_active)
    if port == GUEST_AGENT_PORT:
        url = ports.agent_url(target)
        await request.read_small_body()
        asked = request.asked(ports.agent_session, url, ports.with_token(headers))
    else:
        await request.read_small_body()
        asked = request.asked(ports.session, ports.url(port, target), headers)
    await forward_request(
        asked,
        send,
        head_of=answered,
        unreachable=lambda error: dial_error(error, port),
        traffic=mark_active,
    )


def _no_use() -> None:
    """Ignore traffic that does not count as use of the sandbox."""


async def _socket(
    stream: GuestStream, port: int, target: str, *, scope: Scope, receive: Receive, send: Send
) -> None:
    await receive()  # websocket.connect
    await forward_websocket(
        connect_websocket(
            stream.ports.session, scope, stream.ports.url(port, target), _without_ours(scope["headers"])
        ),
        scope,
        receive,
        send,
        refused_headers=lambda headers: _response_headers(end_to_end(headers)),
        opened=lambda: stream.mark_open(is_finite=False),
        unreachable=lambda error: dial_error(error, port),
        traffic=stream.mark_active,
        pace=stream.ports.pace,
    )


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
    return [(name, value) for name, value in headers if not name.startswith(_OURS)]


def _response_headers(headers: Headers) -> Headers:
    # The control plane's server writes the date itself.
    return [(name, value) for name, value in _without_ours(headers) if name != b"date"]


def _refusal(error: Exception) -> Refusal:
    if not isinstance(error, WrennError):
        _log.error("connection to a port failed", exc_info=error)
        error = InternalError("The host could not pass the connection on; its log has the reason.")
    body = json.dumps({"code": error.code, "message": error.message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (ERROR_CODE_HEADER.encode(), error.code.encode()),
        # A WebSocket's client is not shown the body.
        (ERROR_TEXT_HEADER.encode(), quote(error.message).encode()),
    ]
    close_code = _RESTART if isinstance(error, InvalidState) else _BROKEN
    return Refusal(error.http_status, headers, body, close_code, error.message[:100])
