"""What surrounds every request, as plain ASGI: request id, limit of the body, and the last net for our own faults."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wrenn.base.errors import InternalError, TooLarge
from wrenn.base.ids import random_hex
from wrenn.base.units import MIB
from wrenn.control.http.errors import error_response
from wrenn.protocol.api import JSON_BODY_LIMIT_B, REQUEST_ID_HEADER

_log = logging.getLogger(__name__)

request_id: Final[ContextVar[str]] = ContextVar("request_id", default="")
"""Of the request that this task serves; goes into every log line."""


class RequestIds:
    """Names each request, in the log and in the answer, and answers 500 for what nobody caught."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = random_hex(8)
        request_id.set(name)
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = name
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception:
            # Of an answer that has begun, the server breaks the connection: the client sees that it is not whole.
            _log.exception("request failed", extra={"path": scope["path"], "answer_begun": started})
            if not started:
                error = InternalError(f"An internal error occurred; the log has it under request id {name}.")
                await error_response(error)(scope, receive, send_named)


class BodyLimit:
    """Refuses bodies above a limit, before they are read where the client says the size. `limit_of` knows the path."""

    def __init__(self, app: ASGIApp, limit_of: Callable[[str], int | None]) -> None:
        self._app = app
        self._limit_of = limit_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        limit_b = self._limit_of(scope["path"]) if scope["type"] == "http" else None
        if limit_b is None:
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and (len(announced) > 18 or int(announced) > limit_b):
            await error_response(_too_large(limit_b))(scope, receive, send)
            return
        received_b = 0

        async def receive_limited() -> Message:
            nonlocal received_b
            message = await receive()
            received_b += len(message.get("body", b""))
            if received_b > limit_b:
                raise BodyTooLarge(limit_b)
            return message

        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive_limited, send_noting)
        except BodyTooLarge:
            if started:
                raise
            await error_response(_too_large(limit_b))(scope, receive, send)


class BodyTooLarge(BaseException):
    """Passes through the framework, which would make any other exception of a body a 400."""

    def __init__(self, limit_b: int) -> None:
        super().__init__(limit_b)


def _too_large(limit_b: int) -> TooLarge:
    shown = f"{limit_b // MIB} MiB" if limit_b >= JSON_BODY_LIMIT_B else f"{limit_b} bytes"
    return TooLarge(f"The body has more than {shown}.")


class RequestIdFilter(logging.Filter):
    """Adds the request id to each log record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true."""
        if (name := request_id.get()) and not hasattr(record, "request_id"):
            record.request_id = name
        return True
