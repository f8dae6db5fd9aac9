"""The client's address and origin, and the cookies that it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import urlsplit

from fastapi.requests import HTTPConnection
from fastapi.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from wrenn.base.errors import Forbidden

Network = IPv4Network | IPv6Network
_HOPS_LIMIT: Final = 16
"""Entries of X-Forwarded-For that are looked at, from the nearest."""
VISIT_COOKIE: Final = "wrenn_visit"
"""What a signed-in person's browser shows to ports. The proxy passes no cookie of ours on to a sandbox."""
_HOST_PREFIX: Final = "__Host-"
_IPV6_SITE_BITS: Final = 64
"""One customer's network: an attacker has all of its addresses."""


@dataclass(frozen=True, slots=True)
class Browsers:
    """Determines a client's address and origin, and sets and reads cookies.

    Attributes:
        public_url: where people reach the platform, perhaps with a path; None: wherever the request says.
        trusted_proxies: whose X-Forwarded-For and -Proto are believed.
    """

    public_url: str | None
    trusted_proxies: Sequence[Network]

    def address_of(self, connection: HTTPConnection) -> str:
        """Return the client's address, for IPv6 its network. Behind trusted proxies it is the nearest one that is no proxy."""
        return site_of(self._client_of(connection))

    def with_forwarded(self, scope: Scope) -> Scope:
        """Return the scope with the client address and scheme that a trusted proxy forwarded; unchanged for other clients."""
        if not self.trusted_proxies:
            return scope
        connection = HTTPConnection(scope)
        peer = address_in(connection.client.host) if connection.client is not None else None
        if peer is None or not self._is_proxy(peer):
            return scope
        forwarded = {**scope, "client": (str(self._client_of(connection)), 0)}
        said = connection.headers.get("x-forwarded-proto", "").strip().lower()
        if said in ("http", "https"):
            forwarded["scheme"] = said.replace("http", "ws") if scope["type"] == "websocket" else said
        return forwarded

    def expect_own_page(self, connection: HTTPConnection) -> None:
        """Refuse a request that a page of another origin made a browser send with our cookie.

        Only JSON is taken, which such a page cannot send unasked, and where the browser names the page's origin it must
        be ours.

        Raises:
            Forbidden: it is not from a page of ours.
        """
        kind = connection.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Forbidden("Send Content-Type: application/json.")
        origin = connection.headers.get("origin")
        if origin is None:
            return  # no browser
        said = urlsplit(origin)
        if said.scheme not in ("http", "https"):
            raise Forbidden("The request comes from a page of another origin.")
        if said.netloc.lower() == connection.headers.get("host", "").lower():
            return
        own = urlsplit(self.public_url or "")
        if (said.scheme, said.netloc.lower()) != (own.scheme, own.netloc.lower()):
            raise Forbidden("The request comes from a page of another origin.")

    def base_url(self, connection: HTTPConnection) -> str:
        """Return the URL of the platform without a trailing slash: as configured, else as this request used it."""
        if self.public_url:
            return self.public_url
        return f"{connection.url.scheme}://{connection.headers.get('host', '')}"

    def set_cookie(self, response: Response, name: str, value: str, *, path: str, life_s: int) -> None:
        """Set an HttpOnly cookie for this path; `life_s` 0 deletes it.

        Under https it is a `__Host-` cookie, which no other host name below ours can set, and which browsers take for the path
        `/` only.
        """
        if self._is_https():
            self._set_cookie(response, f"{_HOST_PREFIX}{name}", value, path="/", life_s=life_s)
            return
        public = urlsplit(self.public_url or "")
        self._set_cookie(response, name, value, path=public.path.rstrip("/") + path, life_s=life_s)

    def cookie(self, connection: HTTPConnection, name: str) -> str | None:
        """Return the value of a cookie of `set_cookie`; None: it is missing or ambiguous."""
        wanted = f"{_HOST_PREFIX}{name}" if self._is_https() else name
        pairs = ";".join(connection.headers.getlist("cookie")).split(";")
        split = (pair.strip().partition("=") for pair in pairs)
        values = [value.strip().strip('"') for key, _, value in split if key.strip() == wanted]
        return values[0] if len(values) == 1 else None

    def set_visit_cookie(
        self, connection: HTTPConnection, response: Response, value: str, *, domain: str, life_s: int
    ) -> None:
        """Set the cookie with which the browser visits ports below `domain`.

        Only where the browser takes it: the API's own host is that domain, or below it. And only over https, where browsers
        say which page a request comes from (`Sec-Fetch-Site`): sandboxes are neighbours below that domain.
        """
        name, own = _name_of(domain), _name_of(connection.headers.get("host", ""))
        if self._is_https() and (own == name or own.endswith(f".{name}")):
            self._set_cookie(response, VISIT_COOKIE, value, path="/", life_s=life_s, domain=name)

    def _is_https(self) -> bool:
        return urlsplit(self.public_url or "").scheme == "https"

    def _set_cookie(
        self, response: Response, name: str, value: str, *, path: str, life_s: int, domain: str | None = None
    ) -> None:
        response.set_cookie(
            name,
            value,
            max_age=life_s,
            path=path,
            domain=domain,
            secure=self._is_https(),
            httponly=True,
            samesite="lax",
        )

    def _client_of(self, connection: HTTPConnection) -> IPv4Address | IPv6Address | None:
        client = connection.client
        address = address_in(client.host) if client is not None else None
        if address is None:
            return None
        hops = ",".join(connection.headers.getlist("x-forwarded-for")).split(",")
        for hop in reversed(hops[-_HOPS_LIMIT:]):
            if not self._is_proxy(address):
                break
            before = address_in(hop.strip())
            if before is None:
                break
            address = before
        return address

    def _is_proxy(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self.trusted_proxies)


def _name_of(host: str) -> str:
    """Return the host name without its port."""
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


class BehindProxies:
    """ASGI middleware that applies what trusted proxies forward, outside of everything else."""

    def __init__(self, app: ASGIApp, browsers: Browsers) -> None:
        self._app = app
        self._browsers = browsers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        if scope["type"] in ("http", "websocket"):
            scope = self._browsers.with_forwarded(scope)
        await self._app(scope, receive, send)


def site_of(address: IPv4Address | IPv6Address | None) -> str:
    """Return the key under which an address is rate-limited: of IPv6 the network; "unknown" for None."""
    if address is None:
        return "unknown"
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, _IPV6_SITE_BITS), strict=False))
    return str(address)


def address_in(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an IP address, an IPv4-mapped IPv6 address as IPv4; None: the text is not an address."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))
    return address
