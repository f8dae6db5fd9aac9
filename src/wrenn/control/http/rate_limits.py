"""Limits of the rate of requests, for the API and for ports: by credential, by address, and by refused credentials of an address.

A credential counts as valid from its first success until its first 401; all others share the buckets of their address, so that
made-up credentials open no new buckets. One that is not known to be valid is looked up only while its address has guesses left, and each
refusal costs it one. In memory of each replica: with N of them up to N times as many pass. What must hold over all
of them (quotas, failed logins) is in PostgreSQL.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wrenn.base.clock import Clock
from wrenn.base.errors import RateLimited
from wrenn.control.http.browsers import address_in, site_of
from wrenn.control.http.buckets import Buckets, Rate
from wrenn.control.http.errors import ErrorFormat, error_response
from wrenn.protocol.api import (
    API_KEY_HEADER,
    DOWNLOADS_PREFIX,
    E2B_PREFIX,
    HOST_CREDENTIAL_HEADER,
    STORE_PREFIX,
)

_KEY: Final = API_KEY_HEADER.lower().encode()
_CREDENTIALS: Final = (_KEY, b"authorization")
_BUCKETS: Final = 20_000
"""Of each kind: some 3 MB when all are in use."""
_UNCOUNTED: Final = re.compile(rf"(?:{E2B_PREFIX})?/health|{STORE_PREFIX}/.*")
"""The first asks nobody, and a load balancer asks it all the time. The others have a signature, which is verified before anything
else is done; an agent reads an image by many of them."""
_PROVING: Final = ("/v1/", f"{E2B_PREFIX}/")
_NOT_PROVING: Final = (
    f"{E2B_PREFIX}/openapi.json",
    "/v1/auth/",
    f"{DOWNLOADS_PREFIX}/",
    "/v1/hosts/register",
    "/v1/hosts/auth/",
)
"""Of the paths that are not answered without a credential, these may be."""
_HOST_TOKEN: Final = (HOST_CREDENTIAL_HEADER.lower().encode(),)
_OF_HOSTS: Final = re.compile(r"/v1/hosts/[^/]+/(heartbeat|metrics|images/.*)")
"""Where a host's token is the credential. Elsewhere it is none, or whoever sends a new one each time would have a new bucket."""
_REFUSED_SOCKET: Final = 1008
"""How a WebSocket ends whose first message, which may be its credential, was refused."""


@dataclass(frozen=True, slots=True)
class RateSettings:
    """Rate limits; None: no limit.

    Attributes:
        per_credential: requests and visits with a credential that is known to be valid.
        per_address: requests to the API of an address, without such a credential.
        visits_per_address: visits of ports of an address, without such a credential.
        failures_per_address: credentials of an address that prove to be wrong.
    """

    per_credential: Rate | None
    per_address: Rate | None
    visits_per_address: Rate | None = None
    failures_per_address: Rate | None = None


class Attempt:
    """One request that `Rates` has counted. Exactly one of its methods is called in the end."""

    def __init__(self, rates: Rates, address: bytes, credential: bytes | None, *, holds_guess: bool) -> None:
        self._rates = rates
        self._address = address
        self._credential = credential
        self._holds_guess = holds_guess
        self._is_over = False

    def succeeded(self, *, proves: bool = True) -> None:
        """Report that the credential was not refused; `proves`: it was checked and is valid."""
        if not self._is_over:
            self._is_over = True
            self._rates.close(
                self._address, self._credential, holds_guess=self._holds_guess, failed=False, proves=proves
            )

    def failed(self) -> None:
        """Report that the credential was refused."""
        if not self._is_over:
            self._is_over = True
            self._rates.close(
                self._address, self._credential, holds_guess=self._holds_guess, failed=True, proves=False
            )


class Rates:
    """The token buckets of this replica, shared by the API and port visits."""

    def __init__(self, settings: RateSettings, clock: Clock) -> None:
        self._known = Buckets(settings.per_credential or _UNLIMITED, clock, most=_BUCKETS)
        self._addresses = Buckets(settings.per_address or _UNLIMITED, clock, most=_BUCKETS)
        self._visits = Buckets(settings.visits_per_address or _UNLIMITED, clock, most=_BUCKETS)
        self._failures = Buckets(settings.failures_per_address or _UNLIMITED, clock, most=_BUCKETS)
        # Requests under way with a credential that is not known yet. They are one guess together.
        self._guessed: Counter[Hashable] = Counter()

    def begin(
        self,
        scope: Scope,
        credential: bytes | None,
        *,
        is_visit: bool = False,
        is_verified: bool = False,
        is_foreign: bool = False,
    ) -> Attempt:
        """Count a request or a visit, before its credential is looked up; `is_verified`: it needs no look-up and is valid.

        `is_foreign`: a page of another host has a browser send it. Such guesses are counted apart, so that a hostile page
        does not use up those that its reader is allowed.

        Raises:
            RateLimited: it is one too many.
        """
        address = address_of(scope).encode()
        if credential is not None and (is_verified or credential in self._known):
            _raise_if(self._known.take(credential))
            return Attempt(self, address, credential, holds_guess=False)
        _raise_if((self._visits if is_visit else self._addresses).take(address))
        if credential is None:
            return Attempt(self, address, None, holds_guess=False)
        if is_foreign:
            address = b"foreign " + address
        if not self._guessed[address, credential]:
            _raise_if(self._failures.take(address), "Too many wrong credentials from this address")
        self._guessed[address, credential] += 1
        return Attempt(self, address, credential, holds_guess=True)

    def close(
        self, address: bytes, credential: bytes | None, *, holds_guess: bool, failed: bool, proves: bool
    ) -> None:
        """Settle an `Attempt`."""
        if credential is None:
            return
        is_last = False
        if holds_guess:
            self._guessed[address, credential] -= 1
            is_last = not self._guessed[address, credential]
            if is_last:
                del self._guessed[address, credential]
        if failed:
            self._known.forget(credential)
            # The guess that they held together was the last one's.
            if not is_last:
                self._failures.take(address)
            return
        if is_last:
            self._failures.give_back(address)
        if proves and credential not in self._known:
            self._known.take(credential)


def _raise_if(wait_s: float, why: str = "Too many requests") -> None:
    if wait_s:
        pause_s = max(1, math.ceil(wait_s))
        raise RateLimited(f"{why}. Try again in {pause_s} s.", retry_after_s=pause_s)


class RateLimits:
    """ASGI middleware that applies the rate limits to the API."""

    def __init__(self, app: ASGIApp, rates: Rates, respond: ErrorFormat = error_response) -> None:
        self._app = app
        self._rates = rates
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket, or refuse it."""
        if scope["type"] not in ("http", "websocket") or _UNCOUNTED.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        credential = _credential_of(scope)
        says_later = credential is None and scope["type"] == "websocket"
        if says_later:
            # The credential may come with the first message: until then each WebSocket is a guess of its own.
            credential = hashlib.blake2b(str(id(scope)).encode(), digest_size=16).digest()
        try:
            attempt = self._rates.begin(scope, credential)
        except RateLimited as error:
            await self._refuse(scope, receive, send, error)
            return
        proves = scope["path"].startswith(_PROVING) and not scope["path"].startswith(_NOT_PROVING)

        async def send_and_learn(message: Message) -> None:
            status = _status_of(message)
            if status == 401 or (says_later and message.get("code") == _REFUSED_SOCKET):
                attempt.failed()
            elif says_later and message["type"] == "websocket.send":
                attempt.succeeded(proves=False)
            elif status and not (says_later and status == _ACCEPTED):
                attempt.succeeded(proves=proves and 200 <= status < 300 and not says_later)
            await send(message)

        try:
            await self._app(scope, receive, send_and_learn)
        finally:
            attempt.succeeded(proves=False)  # unless it was said already

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, error: RateLimited) -> None:
        if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1013, "reason": error.code})
            return
        await self._respond(error)(scope, receive, send)


_ACCEPTED: Final = 200
_UNLIMITED: Final = Rate(math.inf, math.inf)


def _credential_of(scope: Scope) -> bytes | None:
    names = _HOST_TOKEN if _OF_HOSTS.fullmatch(scope["path"]) else _CREDENTIALS
    # In the order in which they are looked up: a key that is sent goes before everything else.
    for wanted in names:
        for name, value in scope["headers"]:
            if name == wanted:
                return digest_of(value, kind=name)
    return None


def digest_of(credential: bytes, *, kind: bytes = _KEY) -> bytes:
    """Return the digest under which a credential is remembered; it reveals no secret. `kind` separates kinds of credentials."""
    return hashlib.blake2b(credential, digest_size=16, key=kind).digest()


def address_of(scope: Scope) -> str:
    """Return the address, or network of addresses, whose requests are counted together."""
    client = scope.get("client")
    return site_of(address_in(client[0]) if client else None)


def _status_of(message: Message) -> int:
    match message["type"]:
        case "http.response.start" | "websocket.http.response.start":
            return message["status"]
        case "websocket.accept":
            return 200
        case _:
            return 0
