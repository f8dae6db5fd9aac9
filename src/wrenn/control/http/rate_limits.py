"""Limits of the rate of requests: for each credential that has proved valid, and for each address where there is none.

A credential counts as valid from its first success until its first 401; all others share the bucket of their address, so that
made-up keys open no new buckets. In memory of each replica: with N of them up to N times as many pass. What must hold over all
of them (quotas, failed logins) is in PostgreSQL.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wrenn.base.clock import Clock
from wrenn.base.errors import RateLimited
from wrenn.control.http.browsers import address_in, site_of
from wrenn.control.http.buckets import Buckets, Rate
from wrenn.control.http.errors import error_response
from wrenn.protocol.api import API_KEY_HEADER

_CREDENTIALS: Final = (API_KEY_HEADER.lower().encode(), b"authorization")
_BUCKETS: Final = 20_000
"""Of each kind: some 3 MB when all are in use."""
_UNCOUNTED: Final = "/health"
"""Asks nobody, and a load balancer asks it all the time."""
_PROVING: Final = "/v1/"
_NOT_PROVING: Final = "/v1/auth/"
"""Of the paths that are not answered without a credential, these may be."""


@dataclass(frozen=True, slots=True)
class RateSettings:
    """None: no limit."""

    per_credential: Rate | None
    per_address: Rate | None


class RateLimits:
    """See the module head."""

    def __init__(self, app: ASGIApp, settings: RateSettings, clock: Clock) -> None:
        self._app = app
        self._known = Buckets(settings.per_credential or _UNLIMITED, clock, most=_BUCKETS)
        self._addresses = Buckets(settings.per_address or _UNLIMITED, clock, most=_BUCKETS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket, or refuse it."""
        if scope["type"] not in ("http", "websocket") or scope["path"] == _UNCOUNTED:
            await self._app(scope, receive, send)
            return
        credential = _credential_of(scope)
        if credential is not None and credential in self._known:
            wait_s = self._known.take(credential)
        else:
            wait_s = self._addresses.take(_address_of(scope))
        if wait_s:
            await _refuse(scope, receive, send, wait_s)
            return
        if credential is None:
            await self._app(scope, receive, send)
            return
        proves = scope["path"].startswith(_PROVING) and not scope["path"].startswith(_NOT_PROVING)

        async def send_and_learn(message: Message) -> None:
            status = _status_of(message)
            if status == 401:
                self._known.forget(credential)
            elif proves and 200 <= status < 300 and credential not in self._known:
                self._known.take(credential)
            await send(message)

        await self._app(scope, receive, send_and_learn)


_UNLIMITED: Final = Rate(math.inf, math.inf)


def _credential_of(scope: Scope) -> bytes | None:
    """A digest of what the request says it is: memory holds no secrets."""
    for name, value in scope["headers"]:
        if name in _CREDENTIALS:
            return hashlib.blake2b(value, digest_size=16, key=name).digest()
    return None


def _address_of(scope: Scope) -> bytes:
    client = scope.get("client")
    return site_of(address_in(client[0]) if client else None).encode()


def _status_of(message: Message) -> int:
    match message["type"]:
        case "http.response.start" | "websocket.http.response.start":
            return message["status"]
        case "websocket.accept":
            return 200
        case _:
            return 0


async def _refuse(scope: Scope, receive: Receive, send: Send, wait_s: float) -> None:
    pause_s = max(1, math.ceil(wait_s))
    error = RateLimited(f"Too many requests. Try again in {pause_s} s.", retry_after_s=pause_s)
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1013, "reason": error.code})
        return
    await error_response(error)(scope, receive, send)
