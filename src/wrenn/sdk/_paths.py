"""Paths in calls, and what is told while something is copied."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from wrenn.base.file_names import as_text
from wrenn.sdk.errors import InvalidRequestError

RemotePath = str | bytes
"""A path in a sandbox."""
Progress = Callable[[int, int | None], object]
"""Told the bytes that have passed, and how many there are where that is known."""
Resumed = Callable[[int], object]
"""Told the position from which a broken transfer goes on."""


def remote(path: RemotePath) -> str:
    """The path as the platform writes it.

    Raises:
        InvalidRequestError: it is no path.
    """
    try:
        return as_text(path)
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            "The path is no valid text: give bytes, or what os.fsdecode gives."
        ) from error


def message_of(path: RemotePath, user: str | None) -> dict[str, str]:
    """The part of a request that all calls about a path have."""
    return {"path": remote(path)} | ({} if user is None else {"user": user})


def with_path(url: str, path: str) -> str:
    """The URL of a host with this path, and its query beside the one that the URL has."""
    parts = urlsplit(url)
    name, _, query = path.partition("?")
    queries = "&".join(text for text in (query, parts.query) if text)
    return parts._replace(path=f"/{name.lstrip('/')}", query=queries).geturl()
