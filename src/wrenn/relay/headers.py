"""Header lists, without the hop-by-hop headers, which concern one connection only (RFC 9110 §7.6.1)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

from multidict import CIMultiDict

Headers = list[tuple[bytes, bytes]]
"""Names in lower case; values as received."""

HOP_BY_HOP: Final = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
        b"trailer", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
_ALWAYS_FORWARDED: Final = frozenset({b"content-length", b"content-type", b"cookie", b"host", b"set-cookie"})
"""Headers that `Connection` cannot remove: otherwise a sender could make the two sides disagree about where a
message ends or which host it is for."""
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers without the hop-by-hop ones, including those that `Connection` names."""
    lower = [(name.lower(), value) for name, value in headers]
    dropped: Collection[bytes] = HOP_BY_HOP
    for name, value in lower:
        if name == b"connection" and value.lower() not in (b"keep-alive", b"close"):
            named = {token.strip().lower() for token in value.split(b",")}
            dropped = {*dropped, *(named - _ALWAYS_FORWARDED)}
    return [(name, value) for name, value in lower if name not in dropped]


def header_value(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the first value of the header `name`, which is given in lower case, or None."""
    return next((value for key, value in headers if key == name), None)


def is_sound(name: bytes, value: bytes) -> bool:
    """Whether the header can be sent without being misread, for example as two headers."""
    return _NAME.fullmatch(name) is not None and _BAD_VALUE.search(value) is None


def for_client(headers: Headers) -> CIMultiDict[str]:
    """Convert for aiohttp, which encodes header text as UTF-8, so bytes that are valid UTF-8 are sent unchanged."""
    return CIMultiDict([(name.decode("ascii"), _text(value)) for name, value in headers])


def from_client(headers: Iterable[tuple[str, str]]) -> Headers:
    """Convert from aiohttp's text back to bytes. aiohttp decodes as UTF-8 and represents every other byte as a lone surrogate."""
    return [
        (name.lower().encode(errors="surrogateescape"), value.encode(errors="surrogateescape"))
        for name, value in headers
    ]


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
