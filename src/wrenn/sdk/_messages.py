"""A request and a response, independent of the HTTP client."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """A request. `path` begins with `/v1`; an iterator as `content` is streamed."""

    method: str
    path: str
    params: Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = None
    json: object = None
    content: bytes | Iterable[bytes] | AsyncIterable[bytes] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response."""

    status: int
    request_id: str | None
    body: bytes
    set_cookie: str | None = None
    next_cursor: str = ""
