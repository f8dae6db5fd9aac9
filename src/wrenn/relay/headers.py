"""Headers as they pass through: what concerns one connection only stays behind (RFC 9110 §7.6.1)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

from multidict import CIMultiDict

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, values as they came."""

HOP_BY_HOP: Final = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
        b"trailer", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
_KEPT: Final = frozenset({b"content-length", b"content-type", b"cookie", b"host", b"set-cookie"})
"""What `Connection` cannot take away: a sender could make the two sides disagree on where a message ends or whose it is."""
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers without those of one connection, also those that `Connection` names."""
    lower = [(name.lower(), value) for name, value in headers]
    dropped: Collection[bytes] = HOP_BY_HOP
    for name, value in lower:
        if name == b"connection" and value.lower() not in (b"keep-alive", b"close"):
            named = {token.strip().lower() for token in value.split(b",")}
            dropped = {*dropped, *(named - _KEPT)}
    return [(name, value) for name, value in lower if name not in dropped]


def value_of(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first value under a name in lower case."""
    return next((value for key, value in headers if key == name), None)


def is_sound(name: bytes, value: bytes) -> bool:
    """Whether this can be sent without being read as something else."""
    return _NAME.fullmatch(name) is not None and _BAD_VALUE.search(value) is None


def for_client(headers: Headers) -> CIMultiDict[str]:
    """As the HTTP client wants them: it encodes text as UTF-8, so bytes that are UTF-8 pass unchanged."""
    return CIMultiDict([(name.decode("ascii"), _text(value)) for name, value in headers])


def from_client(headers: Iterable[tuple[str, str]]) -> Headers:
    """As the HTTP client gives them, as bytes again: it decodes as UTF-8 and keeps every other byte as a lone surrogate."""
    return [
        (name.lower().encode(errors="surrogateescape"), value.encode(errors="surrogateescape"))
        for name, value in headers
    ]


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
