"""The ASGI application in front of the API: forwards requests for ports of sandboxes to their hosts, everything else to the API."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final, cast
from urllib.parse import unquote

import aiohttp
from uvicorn.protocols.utils import ClientDisconnected

from wrenn.base.errors import (
    AccessLost,
    AgentFailure,
    InternalError,
    InvalidRequest,
    InvalidState,
    NotFound,
    Unauthorized,
    Unavailable,
    WrennError,
    error_class,
)
from wrenn.base.ids import random_hex
from wrenn.base.units import KIB
from wrenn.control.auth import OpenCalls
from wrenn.control.hosts import ERROR_CODE_HEADER, ERROR_TEXT_HEADER, HostClient, PortPlace
from wrenn.control.http import Rates
from wrenn.control.proxy.access import Admission, PortAccess
from wrenn.control.proxy.locations import SandboxLocations
from wrenn.control.proxy.pages import refusal
from wrenn.control.proxy.visits import (
    PortTarget,
    Visit,
    cookie_name,
    own_path,
    port_target_of,
    request_headers,
    response_headers,
    visit_of,
)
from wrenn.relay import (
    UNPACED,
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
    end_to_end,
    head_of,
    header_value,
    relay_websocket,
    send_refusal,
    send_response,
)
from wrenn.telemetry import PORT, ROUTE

_log = logging.getLogger(__name__)

_ATTEMPTS: Final = 2
"""What we remember may be a moment old: after a host's word that it is not so, it is looked up once more."""
_CODE: Final = ERROR_CODE_HEADER.encode()
_TEXT: Final = ERROR_TEXT_HEADER.encode()
_TEXT_LIMIT: Final = 2 * KIB
_BROKEN: Final = 1011
_REFUSED: Final = 1008


def _no_traffic() -> None:
    """Ignore traffic: the host counts activity."""


class PortProxy:
    """The ASGI application in front of the API: passes requests for ports on to hosts, everything else to the API."""

    def __init__(
        self,
        api: Callable[[Any, Any, Any], Awaitable[None]],
        *,
        access: PortAccess,
        locations: SandboxLocations,
        rates: Rates,
        open_calls: OpenCalls,
    ) -> None:
        self._api = api
        self._access = access
        self._locations = locations
        self._rates = rates
        self._open_calls = open_calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._api(scope, receive, send)
            return
        started = ended = False

        async def send_noting(message: dict[str, Any]) -> None:
            nonlocal started, ended
            started = True
            ended = message["type"] == "websocket.close"
            await send(message)

        request_id = random_hex(8)
        try:
            if sum(name == b"host" for name, _ in scope["headers"]) > 1:
                raise InvalidRequest("The request has more than one Host.")
            target = port_target_of(scope)
            if target is None:
                await self._api(scope, receive, send)
                return
            scope[ROUTE] = PORT
            await self._visit(target, scope, receive, cast("Send", send_noting))
            return
        except (CallerDisconnected, ClientDisconnected):
            return
        except IncompleteResponse as error:
            await abort_response(scope, receive, error)
            return
        except WrennError as error:
            failure = error
            if isinstance(error, InternalError | AgentFailure | Unavailable):
                _log.info(
                    "visit refused",
                    extra={
                        "request_id": request_id,
                        "code": error.code,
                        "cause": error.message,
                        **error.context,
                    },
                )
        except Exception:  # noqa: BLE001 - the last net, as in http/middleware.py
            _log.exception("visit failed", extra={"request_id": request_id})
            failure = InternalError(
                f"An internal error occurred; the log has it under request id {request_id}."
            )
        if not ended:
            await _refuse(scope, receive, send, failure, request_id=request_id, started=started)

    async def _visit(self, target: PortTarget, scope: Scope, receive: Receive, send: Send) -> None:
        visit = visit_of(scope)
        admission = await self._admit(scope, visit, target)
        async with AsyncExitStack() as stack:
            if admission.grant is not None:
                await stack.enter_async_context(self._open_calls.while_allowed(*admission.grant))
            await self._admitted(admission, visit, target, scope=scope, receive=receive, send=send)

    async def _admitted(
        self,
        admission: Admission,
        visit: Visit,
        target: PortTarget,
        *,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        request = Request(scope, receive)
        if scope["type"] == "http":
            if admission.cookie_s and scope["method"] == "GET" and visit.wants_page:
                await _set_link_cookie(admission, visit, scope, send)
                return
            await request.read_small_body()
        else:
            await receive()  # websocket.connect
        for attempt in range(1, _ATTEMPTS + 1):
            host = await self._locations.ready(admission.location, by=admission.visitor)
            try:
                if scope["type"] == "websocket":
                    await self._socket(
                        host,
                        target,
                        visit,
                        is_public=admission.is_public,
                        scope=scope,
                        receive=receive,
                        send=send,
                    )
                else:
                    await self._http(
                        host,
                        target,
                        visit,
                        is_public=admission.is_public,
                        scope=scope,
                        request=request,
                        send=send,
                    )
                return
            except (InvalidState, NotFound) as error:
                self._locations.forget(target.sandbox_id)
                if attempt == _ATTEMPTS or not request.is_replayable:
                    raise
                _log.debug(
                    "visit looks again", extra={"sandbox_id": str(target.sandbox_id), "cause": error.message}
                )

    async def _admit(self, scope: Scope, visit: Visit, target: PortTarget) -> Admission:
        """Let the visitor in, within the rates: a credential is looked up only while its address has guesses left."""
        attempt = self._rates.begin(scope, self._access.unverified_credential(visit, target), is_visit=True)
        is_proved = False
        try:
            admission = await self._access.admit(visit, target)
            # A public port is open to every credential.
            is_proved = not admission.is_public
            return admission
        except Unauthorized:
            attempt.failed()
            raise
        except NotFound:
            is_proved = True  # the key is good, but another team's
            raise
        finally:
            attempt.succeeded(proves=is_proved)

    async def _http(
        self,
        host: HostClient,
        target: PortTarget,
        visit: Visit,
        *,
        is_public: bool,
        scope: Scope,
        request: Request,
        send: Send,
    ) -> None:
        place = PortPlace(target.sandbox_id, target.port, _request_target(scope, visit))
        begun = False
        try:
            async with host.forward(request, place, request_headers(scope)) as response:
                if ERROR_CODE_HEADER in response.headers:
                    raise _host_error([(k.lower(), v) for k, v in response.raw_headers])
                head = head_of(response)
                headers = response_headers(head.headers, scope, target, is_public=is_public)
                begun = True
                await send_response(response, Head(head.status, headers), send, _no_traffic)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if begun:
                raise
            raise self._silent(target, error) from error

    async def _socket(
        self,
        host: HostClient,
        target: PortTarget,
        visit: Visit,
        *,
        is_public: bool,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        place = PortPlace(
            target.sandbox_id, target.port, _request_target(scope, visit), is_tunnel=target.is_tunnel
        )
        try:
            other = await host.forward_websocket(scope, place, request_headers(scope))
        except WebSocketRefused as refused:
            if header_value(refused.headers, _CODE) is not None:
                raise _host_error(refused.headers) from refused
            headers = response_headers(end_to_end(refused.headers), scope, target, is_public=is_public)
            remaining = [(name, value) for name, value in headers if name != b"content-length"]
            await send_refusal(send, refused.status, remaining, b"")
            return
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._silent(target, error) from error
        await relay_websocket(other, scope, receive, send, traffic=_no_traffic, pace=UNPACED)

    def _silent(self, target: PortTarget, error: Exception) -> Unavailable:
        self._locations.forget(target.sandbox_id)
        return Unavailable(
            f"The host of sandbox {target.sandbox_id} does not answer now.", context={"cause": repr(error)}
        )


def _request_target(scope: Scope, visit: Visit) -> str:
    path: bytes = scope["raw_path"] or b"/"
    return (path + (b"?" + visit.query if visit.query else b"")).decode("latin-1")


def _host_error(headers: Headers) -> WrennError:
    code = (header_value(headers, _CODE) or b"").decode("latin-1")
    text = unquote((header_value(headers, _TEXT) or b"").decode("latin-1")[:_TEXT_LIMIT])
    return error_class(code)(text or "The host refused the connection.")


async def _set_link_cookie(admission: Admission, visit: Visit, scope: Scope, send: Send) -> None:
    """Redirect a browser that opened a link to the URL without the token, and set a cookie for this host name."""
    secure = b"; Secure" if scope["scheme"] == "https" else b""
    cookie = b"%s=%s; Max-Age=%d; Path=/; HttpOnly; SameSite=Lax" % (
        cookie_name(scope),
        visit.link,
        admission.cookie_s,
    )
    target = own_path(scope["raw_path"] or b"/") + (b"?" + visit.query if visit.query else b"")
    headers = [
        (b"location", target),
        (b"set-cookie", cookie + secure),
        (b"cache-control", b"no-store"),
        (b"referrer-policy", b"no-referrer"),
        (b"content-length", b"0"),
    ]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _refuse(
    scope: Scope, receive: Receive, send: Send, error: WrennError, *, request_id: str, started: bool
) -> None:
    if started and scope["type"] == "http":
        await abort_response(scope, receive, IncompleteResponse(error.message))
        return
    if started:
        code = _REFUSED if isinstance(error, AccessLost) else _BROKEN
        await send({"type": "websocket.close", "code": code, "reason": ""})
        return
    accept = header_value(scope["headers"], b"accept") or b""
    as_page = scope["type"] == "http" and b"text/html" in accept
    status, headers, body = refusal(error, request_id=request_id, as_page=as_page)
    if scope["type"] == "websocket":
        await send_refusal(send, status, headers, body)
        return
    # A body may be on the way still.
    if header_value(scope["headers"], b"content-length") or header_value(
        scope["headers"], b"transfer-encoding"
    ):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
