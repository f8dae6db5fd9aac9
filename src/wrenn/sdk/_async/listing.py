"""Lists of sandboxes, complete or page by page."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Final

from wrenn.sdk._async.api import AsyncApi, path_of
from wrenn.sdk._parse import json_of, objects
from wrenn.sdk.errors import InvalidRequestError
from wrenn.sdk.types import SandboxInfo

PAGE: Final = 100
"""Default number of sandboxes in a page."""
PAGE_LIMIT: Final = 1000
"""The platform's limit."""


def query_params(
    name: str | None,
    metadata: Mapping[str, str] | None,
    state: Iterable[str] | None,
    search: str | None = None,
) -> list[tuple[str, str]]:
    """Return the query parameters for the filters."""
    query = [("name", name)] if name is not None else []
    query += [("q", search)] if search is not None else []
    query += [("metadata", f"{key}={value}") for key, value in (metadata or {}).items()]
    return query + ([("state", ",".join(state))] if state is not None else [])


async def list_all(api: AsyncApi, query: list[tuple[str, str]]) -> list[SandboxInfo]:
    """Return all matching sandboxes in one response."""
    return _parsed((await api.page(path_of(), query))[0])


async def iter_pages(
    api: AsyncApi, query: list[tuple[str, str]], *, limit: int | None, page_size: int
) -> AsyncGenerator[SandboxInfo]:
    """Yield matching sandboxes, up to `limit`, from pages that are fetched while the iterator advances. Closes `api` at its end.

    Raises:
        InvalidRequestError: `limit` or `page_size` is out of range.
    """
    try:
        if limit is not None and limit < 1:
            raise InvalidRequestError(f"limit must be at least 1, not {limit}.")
        if not 1 <= page_size <= PAGE_LIMIT:
            raise InvalidRequestError(f"page_size must be from 1 to {PAGE_LIMIT}, not {page_size}.")
        left, cursor = limit, ""
        while left is None or left > 0:
            count = page_size if left is None else min(page_size, left)
            page = [("limit", str(count)), *([("cursor", cursor)] if cursor else [])]
            body, cursor = await api.page(path_of(), query + page)
            found = _parsed(body)
            for info in found:
                yield info
            if not cursor:
                return
            left = None if left is None else left - len(found)
    finally:
        await api.close()


def _parsed(body: bytes) -> list[SandboxInfo]:
    return [SandboxInfo.parse(fields) for fields in objects("sandbox", json_of(body))]
