"""A request and a response, independent of the HTTP client."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """A request. `path` begins with `/v1`; an iterator as `content` is streamed.

    `answer_limit_b` limits a response that is read as a whole: its default has room for all output of a command as JSON.
    """

    method: str
    path: str
    params: Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = None
    json: object = None
    content: bytes | Iterable[bytes] | AsyncIterable[bytes] | None = None
    answer_limit_b: int = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response."""

    status: int
    request_id: str | None
    body: bytes
    set_cookie: str | None = None
    next_cursor: str = ""
    is_from_sandbox: bool = False
