"""Paths in the sandbox, and progress callbacks."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from wrenn.base.file_name_encoding import path_to_text
from wrenn.sdk.errors import InvalidRequestError

RemotePath = str | bytes
"""A path in a sandbox."""
Progress = Callable[[int, int | None], object]
"""Called with the number of bytes transferred so far, and the total if it is known."""
Resumed = Callable[[int], object]
"""Called with the position at which an interrupted transfer resumes."""


def remote(path: RemotePath) -> str:
    """Convert a path to the platform's text form.

    Raises:
        InvalidRequestError: it is not a valid path.
    """
    try:
        return path_to_text(path)
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            "The path is no valid text: give bytes, or what os.fsdecode gives."
        ) from error


def message_of(path: RemotePath, user: str | None) -> dict[str, str]:
    """Return the request fields that all calls about a path have."""
    return {"path": remote(path)} | ({} if user is None else {"user": user})


def with_path(url: str, path: str) -> str:
    """Set the path and query of a URL; a query that the URL already has is kept."""
    parts = urlsplit(url)
    name, _, query = path.partition("?")
    queries = "&".join(text for text in (query, parts.query) if text)
    return parts._replace(path=f"/{name.lstrip('/')}", query=queries).geturl()
