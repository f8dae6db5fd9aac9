"""ASGI middleware around every request: request id, limit of the body, and the handler of unexpected exceptions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wrenn.base.errors import InternalError, TooLarge
from wrenn.base.ids import random_hex
from wrenn.base.request_ids import request_id
from wrenn.base.units import MIB
from wrenn.control.http.errors import ErrorFormat, error_response
from wrenn.protocol.api import DOWNLOADS_PREFIX, E2B_UPLOADS_PREFIX, REQUEST_ID_HEADER

_log = logging.getLogger(__name__)

_HEADS: Final = frozenset({"http.response.start", "websocket.http.response.start", "websocket.accept"})
"""Messages that begin an answer."""


class RequestIds:
    """ASGI middleware that gives each request an id for log and response, and answers 500 for unexpected exceptions."""

    def __init__(self, app: ASGIApp, respond: ErrorFormat = error_response) -> None:
        self._app = app
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        name = request_id.get() or random_hex(8)
        request_id.set(name)
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] in _HEADS:
                started = True
                message.setdefault("headers", [])
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = name
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception:  # noqa: BLE001 - the last net: a fault of ours is logged and told in general words
            # Of an answer that has begun, the server breaks the connection: the client sees that it is not whole.
            _log.exception("request failed", extra={"path": _path_to_log(scope), "answer_begun": started})
            if not started:
                error = InternalError(f"An internal error occurred; the log has it under request id {name}.")
                await self._respond(error)(scope, receive, send_named)


def _path_to_log(scope: Scope) -> str:
    """Return the path of a request, without the secret of a link."""
    path = str(scope["path"])
    for prefix in (f"{DOWNLOADS_PREFIX}/", E2B_UPLOADS_PREFIX):
        head, found, secret = path.partition(prefix)
        if secret:
            return f"{head}{found}…"
    return path


class BodyLimit:
    """ASGI middleware that refuses bodies above `limit_b`. Uploads have their own limits."""

    def __init__(
        self,
        app: ASGIApp,
        limit_b: int,
        has_own_limit: Callable[[str], bool],
        respond: ErrorFormat = error_response,
    ) -> None:
        self._app = app
        self._respond = respond
        self._limit_b = limit_b
        self._has_own_limit = has_own_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or self._has_own_limit(scope["path"]):
            await self._app(scope, receive, send)
            return
        error = TooLarge(f"The body has more than {self._limit_b // MIB} MiB.")
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and int(announced[:19]) > self._limit_b:
            await self._respond(error)(scope, receive, send)
            return
        received_b = 0

        async def receive_limited() -> Message:
            nonlocal received_b
            message = await receive()
            received_b += len(message.get("body", b""))
            if received_b > self._limit_b:
                # The one kind that the framework passes on unchanged from within a body.
                raise HTTPException(error.http_status, error.message)
            return message

        await self._app(scope, receive_limited, send)
