"""The ASGI application in front of the API: requests for ports of sandboxes are visits, everything else goes to the API."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from wrenn.base.errors import (
    AccessLost,
    AgentFailure,
    InternalError,
    InvalidRequest,
    Unavailable,
    WrennError,
)
from wrenn.base.ids import random_hex
from wrenn.base.request_ids import request_id
from wrenn.control.proxy.e2b_errors import e2b_error_response
from wrenn.control.proxy.file_signature import SignedFile
from wrenn.control.proxy.pages import error_response
from wrenn.control.proxy.port_target import E2bAddress, e2b_address_of, port_target_of
from wrenn.control.proxy.signed_files import SignedFiles
from wrenn.control.proxy.visits import Visits
from wrenn.protocol.guest_agent import GUEST_AGENT_PORT
from wrenn.relay import Receive, Refusal, Scope, Send, header_value, serve_exchange
from wrenn.telemetry import PORT, ROUTE

_log = logging.getLogger(__name__)

_BROKEN: Final = 1011
_REFUSED: Final = 1008


class PortProxy:
    """The ASGI application in front of the API: serves requests for ports as visits, and passes everything else to the API."""

    def __init__(
        self, api: Callable[[Any, Any, Any], Awaitable[None]], visits: Visits, signed_files: SignedFiles
    ) -> None:
        self._api = api
        self._visits = visits
        self._signed_files = signed_files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._api(scope, receive, send)
            return
        request_id.set(random_hex(8))
        await serve_exchange(self._serve, scope, receive, send, refusal_of=partial(_refusal, scope))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if sum(name == b"host" for name, _ in scope["headers"]) > 1:
            raise InvalidRequest("The request has more than one Host.")
        target = port_target_of(scope) or await self._signed_files.target(scope)
        if target is None:
            await self._api(scope, receive, send)
            return
        scope[ROUTE] = PORT
        await self._visits.serve(target, scope, receive, send)


def _refusal(scope: Scope, error: Exception) -> Refusal:
    name = request_id.get()
    if not isinstance(error, WrennError):
        _log.error("visit failed", exc_info=error)
        error = InternalError(f"An internal error occurred; the log has it under request id {name}.")
    elif isinstance(error, InternalError | AgentFailure | Unavailable):
        _log.info(
            "visit refused",
            extra={"code": error.code, "cause": error.message, **error.context},
        )
    accept = header_value(scope["headers"], b"accept") or b""
    as_page = scope["type"] == "http" and b"text/html" in accept
    address = e2b_address_of(scope) or _address_of_signed_file(scope)
    if address is None:
        status, headers, body = error_response(error, request_id=name, as_page=as_page)
    else:
        status, headers, body = e2b_error_response(error, address=address, request_id=name, as_page=as_page)
    return Refusal(status, headers, body, _REFUSED if isinstance(error, AccessLost) else _BROKEN)


def _address_of_signed_file(scope: Scope) -> E2bAddress | None:
    file = SignedFile.of(scope)
    return E2bAddress("", GUEST_AGENT_PORT) if file is not None and file.signature else None
