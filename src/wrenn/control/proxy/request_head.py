"""The head of a visitor's request as values: its credentials, and what is forwarded of it. Pure functions.

The platform's own credentials never reach a sandbox: the API key, our cookies, the token of a link. The response of a sandbox cannot affect
other host names than its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from wrenn.base.secrets import Secret
from wrenn.control.http import VISIT_COOKIE
from wrenn.control.proxy.file_signature import SignedFile
from wrenn.control.proxy.links import LINK_PARAMETER
from wrenn.control.proxy.port_target import PortTarget
from wrenn.protocol.api import API_KEY_HEADER, SOURCE_HEADER
from wrenn.protocol.guest_agent import ACCESS_HEADER, E2B_TRAFFIC_HEADER, HEALTH_PATH
from wrenn.relay import Headers, Scope, end_to_end, header_value

_EXECUTE: Final = b"/execute"
"""The path of the code interpreter that runs code."""
_SLASHES: Final = re.compile(rb"[/\\]")
_DECODED_TIMES: Final = 3
_COOKIE: Final = b"wrenn_link"
_SESSION: Final = VISIT_COOKIE.encode()
_OUR_COOKIES: Final = (b"wrenn_", b"__host-wrenn_", b"__secure-wrenn_", b"oauth_state", b"__host-oauth_state")
_KEY: Final = API_KEY_HEADER.lower().encode()
_ACCESS_TOKEN: Final = ACCESS_HEADER.lower().encode()
_TRAFFIC_TOKEN: Final = E2B_TRAFFIC_HEADER.lower().encode()
_OURS: Final = frozenset({_KEY, b"expect", b"forwarded"})
"""Request headers that are not forwarded: our server handles `Expect`, and `Forwarded` and the API key are not for the program."""
_OUR_FAMILIES: Final = (b"x-wrenn-", b"wrenn-", b"x-forwarded-", b"e2b-")
_FRAMES: Final = frozenset({b"iframe", b"frame", b"embed", b"object", b"fencedframe"})
"""Values of `Sec-Fetch-Dest` for content that another page embeds."""
_NOT_ANSWERED: Final = frozenset({b"alt-svc", b"clear-site-data", b"date"})
"""Response headers that are not forwarded: they would affect other host names, or our server sets them."""
_SOURCE: Final = SOURCE_HEADER.lower().encode()
_NOT_UNDER_OTHER_NAMES: Final = frozenset(
    {b"cache-control", b"expires", b"pragma", b"age", b"service-worker-allowed", b"set-cookie", _SOURCE}
)
_OF_FILES: Final = frozenset(
    {
        b"content-length",
        b"content-encoding",
        b"content-range",
        b"accept-ranges",
        b"etag",
        b"last-modified",
        b"vary",
    }
)
"""Of a response to a signed URL without a sandbox, these headers are forwarded: its host name is that of the API's pages."""
_INERT_TYPE: Final = re.compile(
    rb"(?:image/(?!svg)|audio/|video/)[a-z0-9.+-]{1,64}|application/json|text/plain", re.IGNORECASE
)
"""Types that a browser neither renders as a page nor runs."""
_GUEST_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0", "169.254.0.21"})  # noqa: S104
"""Host names that a program may use for itself in URLs."""


@dataclass(frozen=True, slots=True)
class Visit:
    """The credentials that a visitor's request carries.

    Attributes:
        link: the token of a link in the query; may be empty.
        cookie: the token of a link in a cookie; may be empty.
        session: the token of a signed-in user in a cookie; may be empty. If there are two cookies of one name, neither counts: a page
            of another sandbox can set one, and they cannot be told apart.
        query: the query string without the link's token, as it is forwarded.
        access_token: the token of the guest agent, of a client of the e2b API; may be empty.
        traffic_token: the token of the ports, of a client of the e2b API; may be empty.
        may_be_code_run: some server may take it for a request that runs code, if the port is that of a code interpreter.
        is_health_check: it asks only whether the guest agent answers.
        file: the call of the guest agent's `/files`, which may be signed; None: it is another request.
        is_foreign: the request was caused by a page of another host; cookies then prove nothing.
        wants_page: the client is a browser that displays the response.
    """

    key: str | None
    link: bytes
    cookie: bytes
    session: bytes
    query: bytes
    access_token: bytes
    traffic_token: bytes
    may_be_code_run: bool
    is_health_check: bool
    file: SignedFile | None
    is_foreign: bool
    wants_page: bool


def visit_of(scope: Scope) -> Visit:
    """Read the visitor's credentials from the head of the request."""
    headers: Headers = scope["headers"]
    key = header_value(headers, _KEY)
    mark = f"{LINK_PARAMETER}=".encode()
    pairs: list[bytes] = scope["query_string"].split(b"&")
    links = [pair[len(mark) :] for pair in pairs if pair.startswith(mark)]
    cookies = _cookies(headers)
    return Visit(
        key=None if key is None else key.decode("latin-1"),
        link=links[0] if links else b"",
        cookie=_only(cookies, cookie_name(scope)),
        session=_only(cookies, _SESSION),
        query=b"&".join(pair for pair in pairs if not pair.startswith(mark))
        if links
        else scope["query_string"],
        access_token=header_value(headers, _ACCESS_TOKEN) or b"",
        traffic_token=header_value(headers, _TRAFFIC_TOKEN) or b"",
        may_be_code_run=may_be_code_run(scope["raw_path"]),
        is_health_check=scope["raw_path"] == HEALTH_PATH.encode() and scope.get("method") in ("GET", "HEAD"),
        file=SignedFile.of(scope),
        is_foreign=is_foreign(headers),
        wants_page=b"text/html" in (header_value(headers, b"accept") or b""),
    )


def may_be_code_run(raw_path: bytes) -> bool:
    """Return whether some server might take a path for the one that runs code.

    It is forwarded as it was sent, and servers differ: they may decode it, resolve `.` and `..`, and ignore case, parameters and slashes.
    """
    parts: list[bytes] = []
    for part in _SLASHES.split(_decoded(raw_path)):
        name = part.partition(b";")[0].strip()
        if name == b"..":
            parts = parts[:-1]
        elif name not in (b"", b"."):
            parts.append(name.lower())
    return parts == [_EXECUTE[1:]]


def _decoded(raw_path: bytes) -> bytes:
    # More than once, as a server behind a proxy of its own may do.
    for _ in range(_DECODED_TIMES):
        decoded = unquote_to_bytes(raw_path)
        if decoded == raw_path:
            break
        raw_path = decoded
    return raw_path


def is_foreign(headers: Headers) -> bool:
    """Return whether a page of another host caused the request."""
    # Sandboxes are neighbours below one domain: for the browser's cookie rules they are the same site.
    origin, host = header_value(headers, b"origin"), header_value(headers, b"host") or b""
    if origin is not None and origin.partition(b"://")[2].lower() != host.lower():
        return True
    if (
        header_value(headers, b"sec-fetch-mode") == b"navigate"
        and header_value(headers, b"sec-fetch-dest") not in _FRAMES
    ):
        return False
    return (header_value(headers, b"sec-fetch-site") or b"none") not in (b"same-origin", b"none")


def _cookies(headers: Headers) -> list[tuple[bytes, bytes]]:
    pairs = [pair.strip() for name, value in headers if name == b"cookie" for pair in value.split(b";")]
    split = [pair.partition(b"=") for pair in pairs if pair]
    return [(name, value) for name, _, value in split]


def _only(cookies: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes:
    values = [value for key, value in cookies if key == name]
    return values[0] if len(values) == 1 else b""


def cookie_name(scope: Scope) -> bytes:
    """Return the name of the cookie with a link's token. With https no other host name can set a cookie of this name."""
    return b"__Host-" + _COOKIE if scope["scheme"] in ("https", "wss") else _COOKIE


def _is_our_cookie(cookie: bytes) -> bool:
    # A cookie without a name is sent back as its value alone: of `=wrenn_link=x` the browser makes `wrenn_link=x`.
    return cookie.lstrip(b" \t=").lower().startswith(_OUR_COOKIES)


def _is_ours(name: bytes) -> bool:
    # Programs behind CGI and WSGI cannot tell an underscore from a hyphen.
    plain = name.replace(b"_", b"-")
    return plain in _OURS or plain.startswith(_OUR_FAMILIES)


def request_headers(scope: Scope, *, host: str, access_token: Secret, with_cookies: bool = True) -> Headers:
    """Return the headers that are forwarded to the program.

    `host` is what the sandbox's owner wants as `Host`; if it is empty it is the client's: programs check it and build URLs from it.
    `access_token` opens the guest agent and is not for programs, which may have tokens of their own in the same header.
    `with_cookies=False`: the cookies are of another host name than the port's.
    """
    forwarded: Headers = []
    for name, value in end_to_end(scope["headers"]):
        if _is_ours(name) or (name == _ACCESS_TOKEN and Secret(value.decode("latin-1")) == access_token):
            continue
        if name == b"host" and host:
            forwarded.append((name, host.encode("ascii")))
            continue
        if name == b"cookie":
            if not with_cookies:
                continue
            remaining = [p for p in value.split(b";") if not _is_our_cookie(p)]
            if remaining:
                forwarded.append((name, b";".join(remaining).strip()))
            continue
        forwarded.append((name, value))
    client = scope["client"][0] if scope["client"] else "unknown"
    scheme = "https" if scope["scheme"] in ("https", "wss") else "http"
    return [
        *forwarded,
        (b"x-forwarded-for", client.encode()),
        (b"x-forwarded-proto", scheme.encode()),
        (b"x-forwarded-host", header_value(scope["headers"], b"host") or b""),
    ]


def response_headers(
    headers: Headers, scope: Scope, target: PortTarget, *, is_public: bool, host: str = ""
) -> Headers:
    """Return the headers that are forwarded to the client.

    Only pages of the same host name may frame a port that is not public. If the port was given by headers, the host name may be that of the API:
    then the response is not cached, sets no cookies, and its page is sandboxed (CSP), so that it has no rights of that host name. A header
    tells it from the platform's own answers.
    """
    if target.by_signature:
        return _inert(headers)
    forwarded: Headers = []
    if not is_public:
        forwarded.append((b"content-security-policy", b"frame-ancestors 'self'"))
    if target.by_headers:
        forwarded += [
            (b"cache-control", b"no-store"),
            (b"content-security-policy", b"sandbox"),
            (_SOURCE, b"sandbox"),
        ]
    for name, value in headers:
        if name in _NOT_ANSWERED or (target.by_headers and name in _NOT_UNDER_OTHER_NAMES):
            continue
        if name == b"set-cookie":
            if not _is_our_cookie(value):
                forwarded.append((name, _host_only(value)))
        elif name in (b"location", b"content-location"):
            forwarded.append((name, _seen_from_outside(value, scope, target.port, host)))
        else:
            forwarded.append((name, value))
    return forwarded


def _inert(headers: Headers) -> Headers:
    """Return the headers of a file that a browser saves, whatever the guest says about it: no page, no script, no cookie, no redirect."""
    kind = (header_value(headers, b"content-type") or b"").partition(b";")[0].strip()
    return [
        *((name, value) for name, value in headers if name in _OF_FILES),
        (b"content-type", kind if _INERT_TYPE.fullmatch(kind) else b"application/octet-stream"),
        (b"content-disposition", b"attachment"),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
        (b"content-security-policy", b"sandbox; default-src 'none'; frame-ancestors 'none'"),
    ]


def request_target(scope: Scope, visit: Visit) -> str:
    """Return the request target that is forwarded: without the token of a link."""
    path: bytes = scope["raw_path"] or b"/"
    return (path + (b"?" + visit.query if visit.query else b"")).decode("latin-1")


def _host_only(cookie: bytes) -> bytes:
    first, *attributes = cookie.split(b";")
    remaining = [a for a in attributes if a.partition(b"=")[0].strip().lower() != b"domain"]
    return b";".join([first, *remaining])


def _seen_from_outside(location: bytes, scope: Scope, port: int, inner_host: str) -> bytes:
    """Remove scheme and host from an absolute URL that names the program itself; return any other URL unchanged."""
    try:
        parts = urlsplit(location.decode("latin-1"))
        own_port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return location
    if parts.scheme not in ("http", "https"):
        return location
    host = (header_value(scope["headers"], b"host") or b"").decode("latin-1").lower()
    is_inner = parts.hostname in _GUEST_NAMES and own_port == port
    if not is_inner and parts.netloc.lower() not in {host, inner_host.lower()} - {""}:
        return location
    rest = location.split(b"/", 3)[3:]
    return own_path(b"/" + (rest[0] if rest else b""))


def own_path(path: bytes) -> bytes:
    """Return a path as a reference to the same host: two leading slashes would name another host."""
    return b"/." + path if path.startswith((b"//", b"/\\")) else path
