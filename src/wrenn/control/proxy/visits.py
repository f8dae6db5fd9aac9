"""A visit to a port of a sandbox, from the head of the request to the end of the response.

`request_head.py` reads the head, `access.py` decides, `locations.py` finds the host, and `relay` forwards to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final
from urllib.parse import unquote

import aiohttp

from wrenn.base.errors import (
    AccessLost,
    DeadlineExceeded,
    InvalidState,
    NotFound,
    PortClosed,
    RateLimited,
    Unauthorized,
    Unavailable,
    WrennError,
    cause_of,
    error_class,
)
from wrenn.base.ids import SandboxId
from wrenn.base.secrets import Secret
from wrenn.base.units import KIB
from wrenn.control.auth import OpenCalls
from wrenn.control.hosts import ERROR_CODE_HEADER, ERROR_TEXT_HEADER, HostClient, PortPlace
from wrenn.control.http import Rates, address_of
from wrenn.control.proxy.access import Admission, PortAccess
from wrenn.control.proxy.access_tokens import AccessTokens
from wrenn.control.proxy.broken_streams import StreamEnd
from wrenn.control.proxy.e2b_errors import NoSuchCall
from wrenn.control.proxy.locations import SandboxLocations
from wrenn.control.proxy.open_visits import OpenVisits
from wrenn.control.proxy.port_target import PortTarget
from wrenn.control.proxy.public_visits import PublicVisits
from wrenn.control.proxy.request_head import (
    Visit,
    cookie_name,
    own_path,
    request_headers,
    request_target,
    response_headers,
    visit_of,
)
from wrenn.protocol.guest_agent import is_public_path
from wrenn.relay import (
    UNPACED,
    Head,
    Headers,
    IncompleteResponse,
    Receive,
    Request,
    Scope,
    Send,
    end_to_end,
    forward_request,
    forward_websocket,
    head_of,
    header_value,
)

_log = logging.getLogger(__name__)

_ATTEMPTS: Final = 2
"""The cached location may be outdated: if the host says so, it is looked up once more."""
_E2B_PAUSES_S: Final = (0.1, 0.2, 0.3, 0.4)
"""Clients of the e2b API expect that a program may begin to listen a little after the first request."""
_SIGNED_AT_ONCE: Final = 32
"""Visits of one sandbox by signed URLs: a fifth of the connections that its host has to the guest agent."""
_SIGNED_S: Final = 3600.0
"""The longest upload or download by a signed URL, as for e2b's own."""
_CODE: Final = ERROR_CODE_HEADER.encode()
_TEXT: Final = ERROR_TEXT_HEADER.encode()
_TEXT_LIMIT: Final = 2 * KIB


def _no_traffic() -> None:
    """Ignore traffic: the host counts activity."""


class Visits:
    """Serves visits to ports of sandboxes."""

    def __init__(
        self,
        *,
        access: PortAccess,
        access_tokens: AccessTokens,
        locations: SandboxLocations,
        rates: Rates,
        open_calls: OpenCalls,
        public_visits: PublicVisits,
        open_visits: OpenVisits,
    ) -> None:
        self._access = access
        self._access_tokens = access_tokens
        self._locations = locations
        self._rates = rates
        self._open_calls = open_calls
        self._public_visits = public_visits
        self._open_visits = open_visits
        self._signed: Counter[SandboxId] = Counter()

    async def serve(self, target: PortTarget, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket, to its end or until the visitor's credential is revoked, the link expires, or the port is not public any more.

        Raises:
            WrennError: the visitor may not visit, too many visits are open, the sandbox does not run, or its host does not answer.
        """
        if target.is_guest_agent:
            _check_guest_agent_path(scope)
        visit = visit_of(scope)
        admission = await self._admit(scope, visit, target)
        async with AsyncExitStack() as stack:
            stack.enter_context(
                self._open_visits.counted(
                    target.sandbox_id,
                    admission.location.sandbox.team_id,
                    stranger_at=address_of(scope) if admission.is_of_stranger else None,
                )
            )
            if admission.grant is not None:
                await stack.enter_async_context(self._open_calls.while_allowed(*admission.grant))
            if admission.is_public:
                await stack.enter_async_context(
                    self._public_visits.while_public(target.sandbox_id, target.port)
                )
            if admission.ends_in_s:
                await stack.enter_async_context(_while_link_is_valid(admission.ends_in_s))
            if admission.is_signed:
                await stack.enter_async_context(self._signed_visit(target))
            if (
                admission.cookie_s
                and scope["type"] == "http"
                and scope["method"] == "GET"
                and visit.wants_page
            ):
                await _set_link_cookie(admission, visit, scope, send)
                return
            await self._forward(admission, visit, target, scope=scope, receive=receive, send=send)

    @asynccontextmanager
    async def _signed_visit(self, target: PortTarget) -> AsyncGenerator[None]:
        """Limit what the holders of signed URLs of one sandbox may use of it: its owner's calls need connections to the guest too."""
        sandbox_id = target.sandbox_id
        if self._signed[sandbox_id] >= _SIGNED_AT_ONCE:
            raise RateLimited(f"More than {_SIGNED_AT_ONCE} signed URLs of this sandbox are in use at once.")
        self._signed[sandbox_id] += 1
        try:
            async with asyncio.timeout(_SIGNED_S):
                yield
        except TimeoutError as error:
            raise DeadlineExceeded(f"A signed URL is served for {_SIGNED_S:.0f} s at most.") from error
        finally:
            self._signed[sandbox_id] -= 1
            if not self._signed[sandbox_id]:
                del self._signed[sandbox_id]

    async def _admit(self, scope: Scope, visit: Visit, target: PortTarget) -> Admission:
        """Let the visitor in, within the rates: a credential is looked up only while its address has guesses left."""
        verified = self._access.verified_credential(visit, target)
        credential = verified or self._access.unverified_credential(visit, target)
        attempt = self._rates.begin(scope, credential, is_visit=True, is_verified=verified is not None)
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
            # A key was checked before: it is good, but another team's. Other credentials were not.
            is_proved = visit.key is not None
            raise
        finally:
            attempt.succeeded(proves=is_proved)

    async def _forward(
        self,
        admission: Admission,
        visit: Visit,
        target: PortTarget,
        *,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Forward to the host of the sandbox; look it up and try once more if the host says that the sandbox is not running there."""
        request = Request(scope, receive)
        if scope["type"] == "http":
            await request.read_small_body()
        else:
            await receive()  # websocket.connect
        for attempt in range(1, _ATTEMPTS + 1):
            host = await self._host_of(admission)
            route = _Route(
                self._locations,
                host,
                target,
                visit,
                scope,
                is_public=admission.is_public,
                request_host=admission.location.sandbox.ingress.host_for(target.port),
                access_token=self._access_tokens.of(target.sandbox_id),
            )
            try:
                if scope["type"] == "websocket":
                    await _dial(partial(route.websocket, receive, send), request, target)
                else:
                    await _dial(partial(route.request, request, send), request, target)
                return
            except (InvalidState, NotFound) as error:
                self._locations.forget(target.sandbox_id)
                if attempt == _ATTEMPTS or not request.is_replayable:
                    raise
                _log.debug(
                    "visit is tried again",
                    extra={"sandbox_id": str(target.sandbox_id), "cause": error.message},
                )
                admission = await self._access.admit(visit, target)

    async def _host_of(self, admission: Admission) -> HostClient:
        location = admission.location
        if not admission.may_resume and not location.sandbox.is_usable:
            raise InvalidState(
                f"Sandbox {location.sandbox.sandbox_id} is {location.sandbox.state_text}, not running."
            )
        return await self._locations.resume_if_needed(location, by=admission.visitor)


@asynccontextmanager
async def _while_link_is_valid(left_s: int) -> AsyncGenerator[None]:
    """Run the body and cancel it once the link of the visit has expired: its owner cannot revoke it otherwise.

    Raises:
        AccessLost: it has expired. The body was cancelled.
    """
    limit = asyncio.timeout(left_s)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise AccessLost("The link of this visit has expired.") from error


async def _dial(forward: Callable[[], Awaitable[None]], request: Request, target: PortTarget) -> None:
    """Run `forward`; for a client of the e2b API again while nothing listens on the port, because the program may be starting."""
    for pause_s in _E2B_PAUSES_S if target.is_e2b else ():
        try:
            return await forward()
        except PortClosed:
            if not request.is_replayable:
                raise
            await asyncio.sleep(pause_s)
    return await forward()


def _check_guest_agent_path(scope: Scope) -> None:
    """Check that visitors may call this path of the guest agent, which the host checks too.

    Raises:
        NoSuchCall: they may not.
    """
    if scope["type"] != "http" or not is_public_path(scope["raw_path"].decode("latin-1")):
        raise NoSuchCall("The sandbox has no such call.")


class _Route:
    """One way of a visit to its port, over one host."""

    def __init__(
        self,
        locations: SandboxLocations,
        host: HostClient,
        target: PortTarget,
        visit: Visit,
        scope: Scope,
        *,
        is_public: bool,
        request_host: str,
        access_token: Secret,
    ) -> None:
        self._locations = locations
        self._host = host
        self._target = target
        self._scope = scope
        self._is_public = is_public
        self._request_host = "" if target.is_guest_agent else request_host
        self._place = PortPlace(
            target.sandbox_id, target.port, request_target(scope, visit), is_tunnel=target.is_tunnel
        )
        self._headers = request_headers(
            scope, host=self._request_host, access_token=access_token, with_cookies=not target.by_headers
        )

    async def request(self, request: Request, send: Send) -> None:
        end = StreamEnd(self._scope, send) if self._target.is_guest_agent else None

        def head_of_response(response: aiohttp.ClientResponse) -> Head:
            head = self._head_of(response)
            if end is not None:
                end.begin(head)
            return head

        try:
            await forward_request(
                self._host.forward(request, self._place, self._headers),
                send if end is None else end.send,
                head_of=head_of_response,
                unreachable=self._unreachable,
                traffic=_no_traffic,
            )
        except IncompleteResponse as error:
            if end is None:
                raise
            await end.finish(error)

    async def websocket(self, receive: Receive, send: Send) -> None:
        await forward_websocket(
            self._host.forward_websocket(self._scope, self._place, self._headers),
            self._scope,
            receive,
            send,
            refused_headers=self._refused_headers,
            opened=_no_traffic,
            unreachable=self._unreachable,
            traffic=_no_traffic,
            pace=UNPACED,
        )

    def _head_of(self, response: aiohttp.ClientResponse) -> Head:
        if ERROR_CODE_HEADER in response.headers:
            raise _host_error([(name.lower(), value) for name, value in response.raw_headers])
        head = head_of(response)
        return Head(head.status, self._response_headers(head.headers))

    def _refused_headers(self, headers: Headers) -> Headers:
        if header_value(headers, _CODE) is not None:
            raise _host_error(headers)
        return self._response_headers(end_to_end(headers))

    def _response_headers(self, headers: Headers) -> Headers:
        return response_headers(
            headers, self._scope, self._target, is_public=self._is_public, host=self._request_host
        )

    def _unreachable(self, error: Exception) -> Unavailable:
        sandbox_id = self._target.sandbox_id
        self._locations.forget(sandbox_id)
        return Unavailable(
            f"The host of sandbox {sandbox_id} does not answer now.", context={"cause": cause_of(error)}
        )


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
