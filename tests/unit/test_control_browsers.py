"""Whose word on a client's address is believed, and which pages may use our cookies."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wrenn.base.clock import SystemClock
from wrenn.base.errors import Forbidden
from wrenn.control.http import BehindProxies, Browsers
from wrenn.control.http.buckets import Rate
from wrenn.control.http.rate_limits import RateLimits, Rates, RateSettings

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def connection(client: str, **headers: str) -> HTTPConnection:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "client": (client, 1), "headers": raw})


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "1.1.1.1, nonsense", "10.0.0.1"),
        ("10.0.0.1", ",".join(["10.0.0.9"] * 5000), "10.0.0.9"),
        ("2001:db8:1:2:3::4", "", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "", "192.0.2.1"),
        ("fd00::1", "2001:db8::5", "2001:db8::/64"),
        ("a socket", "", "unknown"),
    ],
)
def test_the_address_is_the_nearest_one_that_is_no_proxy(client: str, forwarded: str, address: str):
    headers = {"x_forwarded_for": forwarded} if forwarded else {}
    assert Browsers(None, PROXIES).address_of(connection(client, **headers)) == address


@pytest.mark.parametrize(
    ("kind", "client", "said", "believed"),
    [
        ("http", "10.0.0.1", ("198.51.100.7", "https"), ("198.51.100.7", "https")),
        ("websocket", "10.0.0.1", ("198.51.100.7", "https"), ("198.51.100.7", "wss")),
        ("http", "10.0.0.1", ("nonsense", "gopher"), ("10.0.0.1", "http")),
        ("http", "10.0.0.1", ("1.1.1.1, 198.51.100.7, 10.0.0.2", ""), ("198.51.100.7", "http")),
        ("http", "192.0.2.1", ("198.51.100.7", "https"), ("192.0.2.1", "http")),
        ("http", "127.0.0.1", ("198.51.100.7", "https"), ("127.0.0.1", "http")),
    ],
)
async def test_every_request_has_the_client_that_trusted_proxies_forward(
    kind: str, client: str, said: tuple[str, str], believed: tuple[str, str]
):
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def nothing(*_: object) -> Any:
        raise AssertionError("not asked")

    scope = connection(client, x_forwarded_for=said[0], x_forwarded_proto=said[1]).scope
    scope.update(type=kind, scheme="ws" if kind == "websocket" else "http")
    browsers = Browsers(None, PROXIES)
    await BehindProxies(app, browsers)(scope, nothing, nothing)
    assert (seen[0]["client"][0], seen[0]["scheme"]) == believed
    # Whoever looks again sees the same.
    assert browsers.address_of(HTTPConnection(seen[0])) == believed[0]


@pytest.mark.parametrize(
    ("origin", "is_ours"),
    [
        ("", True),
        ("http://api.example", True),
        ("https://wrenn.example", True),
        ("http://wrenn.example", False),
        ("https://wrenn.example.evil.example", False),
        ("https://evil.example", False),
        ("null", False),
    ],
)
def test_only_pages_of_ours_may_use_the_cookie(origin: str, *, is_ours: bool):
    browsers = Browsers("https://wrenn.example/api", ())
    headers = {"content_type": "application/json; charset=utf-8", "host": "api.example"}
    asked = connection("127.0.0.1", **headers, **({"origin": origin} if origin else {}))
    if is_ours:
        browsers.expect_own_page(asked)
    else:
        with pytest.raises(Forbidden):
            browsers.expect_own_page(asked)


def test_a_form_cannot_use_the_cookie():
    with pytest.raises(Forbidden):
        Browsers(None, ()).expect_own_page(connection("127.0.0.1", content_type="text/plain"))


async def test_ipv4_mapped_clients_are_distinguished():
    """A socket for both hands IPv4 addresses over as IPv6, all of one network."""
    served: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["client"][0])

    async def nothing(*_: Any) -> Any:
        return {}

    limits = RateLimits(app, Rates(RateSettings(None, Rate(0.001, 1)), SystemClock()))
    for client in ("::ffff:192.0.2.1", "::ffff:192.0.2.2", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::2"):
        scope: Scope = {"type": "http", "path": "/v1/me", "client": (client, 1), "headers": []}
        await limits(scope, nothing, nothing)
    assert served == ["::ffff:192.0.2.1", "::ffff:192.0.2.2", "2001:db8::1"]


HTTPS, HTTP = Browsers("https://wrenn.example/api", ()), Browsers(None, ())


def test_under_https_our_cookies_are_bound_to_the_host_name() -> None:
    response = Response()
    HTTPS.set_cookie(response, "wrenn_refresh", "x", path="/v1/auth", life_s=60)
    said = response.headers["set-cookie"]
    assert said.startswith("__Host-wrenn_refresh=x;")
    assert {"Path=/", "Secure", "HttpOnly"} <= set(said.split("; "))
    assert "domain" not in said.lower()


@pytest.mark.parametrize(
    ("browsers", "cookie", "value"),
    [
        (HTTPS, "__Host-wrenn_refresh=a", "a"),
        (HTTPS, "wrenn_refresh=a", None),
        (HTTPS, "wrenn_refresh=a; __Host-wrenn_refresh=b; other=c", "b"),
        (HTTPS, "__Host-wrenn_refresh=a; __Host-wrenn_refresh=b", None),
        (HTTPS, "__Host-wrenn_refresh=a; __Host-wrenn_refresh=a", None),
        (HTTPS, "__host-wrenn_refresh=a", None),
        (HTTP, "wrenn_refresh=a", "a"),
        (HTTP, "__Host-wrenn_refresh=a", None),
        (HTTP, "wrenn_refresh=a; wrenn_refresh=b", None),
        (HTTP, "wrenn_refresh", ""),
        (HTTP, "", None),
    ],
)
def test_only_one_cookie_of_the_right_name_counts(browsers: Browsers, cookie: str, value: str | None) -> None:
    assert browsers.cookie(connection("192.0.2.1", cookie=cookie), "wrenn_refresh") == value


def test_cookies_in_two_headers_are_two_cookies() -> None:
    twice = [(b"cookie", b"wrenn_refresh=a"), (b"cookie", b"wrenn_refresh=b")]
    both = HTTPConnection({"type": "http", "client": ("192.0.2.1", 1), "headers": twice})
    assert HTTP.cookie(both, "wrenn_refresh") is None
