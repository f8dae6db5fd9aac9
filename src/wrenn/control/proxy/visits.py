"""A visitor's request as values: what it is for, what it shows as its right, and what of it and of the answer passes. Pure.

What is ours never reaches a sandbox: the API key, our cookies, the token of a link. What a sandbox answers cannot reach beyond its
own host name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import SandboxId
from wrenn.control.http import VISIT_COOKIE
from wrenn.control.proxy.links import LINK_PARAMETER, PLATFORM_PORT
from wrenn.protocol.api import API_KEY_HEADER, PORT_HEADER, SANDBOX_HEADER
from wrenn.relay import Headers, Scope, end_to_end, value_of

COOKIE: Final = b"wrenn_link"
_SAME_NAME_LIMIT: Final = 4
"""Cookies of one name that are looked at."""
_SESSION: Final = VISIT_COOKIE.encode()
_OUR_COOKIES: Final = (b"wrenn_", b"__Host-wrenn_", b"__Secure-wrenn_")
_HOST: Final = re.compile(rb"([0-9]+)-(cl-[0-9a-z]+)\..*", re.IGNORECASE | re.DOTALL)
_TUNNEL: Final = re.compile(r"/v1/(?:sandboxes|capsules)/([^/]+)/ports/([0-9]+)/tunnel", re.ASCII)
_KEY: Final = API_KEY_HEADER.lower().encode()
_SANDBOX: Final = SANDBOX_HEADER.lower().encode()
_PORT: Final = PORT_HEADER.lower().encode()
_OURS: Final = frozenset({_KEY, _SANDBOX, _PORT, b"expect", b"forwarded"})
"""Of a request. `Expect` was answered by our server; the others are said anew or are nobody's business."""
_NOT_ANSWERED: Final = frozenset({b"alt-svc", b"clear-site-data", b"date"})
"""Of an answer: they would hold for more than the one host name, or are said by our server."""
_GUEST_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0", "169.254.0.21"})  # noqa: S104
"""How a program may call the host that it serves on."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What a request is for.

    Attributes:
        is_tunnel: the bytes of the port, not what it says in HTTP.
    """

    sandbox_id: SandboxId
    port: int
    is_tunnel: bool = False


def aim_of(scope: Scope) -> Aim | None:
    """The port that a request is for; None: it is for the API.

    Raises:
        InvalidRequest: it is for a port, but for none that can be.
    """
    headers: Headers = scope["headers"]
    if (host := value_of(headers, b"host")) and (match := _HOST.fullmatch(host)):
        return _aim(match[2].lower(), match[1])
    sandbox, port = value_of(headers, _SANDBOX), value_of(headers, _PORT)
    if sandbox is not None and port is not None:
        return _aim(sandbox, port)
    if sandbox is not None or port is not None:
        raise InvalidRequest(f"The headers {SANDBOX_HEADER} and {PORT_HEADER} are only good together.")
    if scope["type"] == "websocket" and (match := _TUNNEL.fullmatch(scope["path"])):
        return _aim(match[1].encode(), match[2].encode(), is_tunnel=True)
    return None


def _aim(sandbox: bytes, port: bytes, *, is_tunnel: bool = False) -> Aim:
    number = int(port) if port.isdigit() and len(port) <= 5 else 0
    if not 1 <= number <= 65535:
        raise InvalidRequest("A port is a number from 1 to 65535.")
    if number == PLATFORM_PORT:
        raise InvalidRequest(f"Port {PLATFORM_PORT} is the platform's own.")
    return Aim(SandboxId.parse(sandbox.decode("latin-1")), number, is_tunnel)


@dataclass(frozen=True, slots=True)
class Visit:
    """What a request shows as its right.

    Attributes:
        link: the token of a link, empty where there is none.
        cookies: tokens of links in cookies.
        sessions: in cookies, tokens of signed-in people. Of both there may be several: a neighbour's page can put one of its
            own beside the true one, and must not hide that.
        query: what the program is asked, without the link's token.
        is_foreign: a page of another host asks in the browser's name; then a cookie says nothing.
        wants_page: a browser that shows what it gets.
    """

    key: str | None
    link: bytes
    cookies: Sequence[bytes]
    sessions: Sequence[bytes]
    query: bytes
    is_foreign: bool
    wants_page: bool


def visit_of(scope: Scope) -> Visit:
    """Read it off the head."""
    headers: Headers = scope["headers"]
    key = value_of(headers, _KEY)
    mark = f"{LINK_PARAMETER}=".encode()
    pairs: list[bytes] = scope["query_string"].split(b"&")
    links = [pair[len(mark) :] for pair in pairs if pair.startswith(mark)]
    cookies = _cookies(headers)
    return Visit(
        key=None if key is None else key.decode("latin-1"),
        link=links[0] if links else b"",
        cookies=_named(cookies, COOKIE),
        sessions=_named(cookies, _SESSION),
        query=b"&".join(pair for pair in pairs if not pair.startswith(mark))
        if links
        else scope["query_string"],
        is_foreign=_is_foreign(headers),
        wants_page=b"text/html" in (value_of(headers, b"accept") or b""),
    )


def _is_foreign(headers: Headers) -> bool:
    # Sandboxes are neighbours below one domain: for the browser's cookie rules they are the same site.
    origin, host = value_of(headers, b"origin"), value_of(headers, b"host") or b""
    if origin is not None and origin.partition(b"://")[2].lower() != host.lower():
        return True
    if value_of(headers, b"sec-fetch-mode") == b"navigate":
        return False
    return (value_of(headers, b"sec-fetch-site") or b"none") not in (b"same-origin", b"none")


def _cookies(headers: Headers) -> list[tuple[bytes, bytes]]:
    pairs = [pair.strip() for name, value in headers if name == b"cookie" for pair in value.split(b";")]
    split = [pair.partition(b"=") for pair in pairs if pair]
    return [(name, value) for name, _, value in split]


def _named(cookies: Sequence[tuple[bytes, bytes]], name: bytes) -> Sequence[bytes]:
    return [value for key, value in cookies if key == name][:_SAME_NAME_LIMIT]


def passed_on(scope: Scope) -> Headers:
    """The request's headers as the program gets them. `Host` is the client's: programs check it, and build URLs of it."""
    passed: Headers = []
    for name, value in end_to_end(scope["headers"]):
        if name in _OURS or name.startswith(b"x-forwarded-"):
            continue
        if name == b"cookie":
            kept = [p for p in value.split(b";") if not p.strip().startswith(_OUR_COOKIES)]
            if kept:
                passed.append((name, b";".join(kept).strip()))
            continue
        passed.append((name, value))
    client = scope["client"][0] if scope["client"] else "unknown"
    scheme = "https" if scope["scheme"] in ("https", "wss") else "http"
    return [
        *passed,
        (b"x-forwarded-for", client.encode()),
        (b"x-forwarded-proto", scheme.encode()),
        (b"x-forwarded-host", value_of(scope["headers"], b"host") or b""),
    ]


def passed_back(headers: Headers, scope: Scope, port: int) -> Headers:
    """The answer's headers as the client gets them."""
    passed: Headers = []
    for name, value in headers:
        if name in _NOT_ANSWERED:
            continue
        if name == b"set-cookie":
            if not value.strip().startswith(_OUR_COOKIES):
                passed.append((name, _host_only(value)))
        elif name in (b"location", b"content-location"):
            passed.append((name, _seen_from_outside(value, scope, port)))
        else:
            passed.append((name, value))
    return passed


def _host_only(cookie: bytes) -> bytes:
    first, *attributes = cookie.split(b";")
    kept = [a for a in attributes if a.partition(b"=")[0].strip().lower() != b"domain"]
    return b";".join([first, *kept])


def _seen_from_outside(location: bytes, scope: Scope, port: int) -> bytes:
    """An absolute URL of the program's own, as it sees itself, without scheme and host; any other one as it is."""
    try:
        parts = urlsplit(location.decode("latin-1"))
        own_port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return location
    if parts.scheme not in ("http", "https"):
        return location
    host = (value_of(scope["headers"], b"host") or b"").decode("latin-1").lower()
    is_inner = parts.hostname in _GUEST_NAMES and own_port == port
    if not is_inner and parts.netloc.lower() != host:
        return location
    rest = location.split(b"/", 3)[3:]
    return own_path(b"/" + (rest[0] if rest else b""))


def own_path(path: bytes) -> bytes:
    """A path as a reference to the same host: one that begins with two slashes would be another host's name."""
    return b"/." + path if path.startswith((b"//", b"/\\")) else path
