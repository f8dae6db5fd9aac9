"""Reads a team's audit log in pages: each entry exactly once, whatever is written meanwhile."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Final

from wrenn.base.errors import InvalidRequest, RateLimited
from wrenn.base.ids import AuditId, TeamId
from wrenn.control.audit import PLATFORM_TEAM, Scope
from wrenn.control.audit_log import store
from wrenn.control.audit_log.store import Filter, Page
from wrenn.control.auth import Caller, scopes_of
from wrenn.control.db import Database, settled_moment

PAGE_DEFAULT: Final = 50
PAGE_LIMIT: Final = 200
TEXT_LIMIT: Final = 200
_WORDS_LIMIT: Final = 8
_SEARCHES_OF_TEAM: Final = 2
"""Searches for words of one team at once, at one replica."""
_NAMES_LIMIT: Final = 50
_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


class AuditLog:
    """Reads the audit log in pages that never change once they were answered."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._searching: Counter[TeamId] = Counter()
        # The latest moment that is known to be settled: the pages after a first one need not ask again.
        self._settled: datetime | None = None

    async def page(self, caller: Caller, which: Filter, *, limit: int) -> Page:
        """Return up to `limit` entries (200 at most) that the caller may see, newest first.

        A page is final: nothing will ever appear between its entries, nor above the first of them with an earlier time.

        Raises:
            RateLimited: the team searches for words twice already at this replica; each search reads thousands of entries.
        """
        return await self._page(caller.team_id, scopes_of(caller), which, limit)

    async def platform_page(self, which: Filter, *, limit: int) -> Page:
        """Return a page of the platform's own log. The caller has checked that the user is an admin."""
        return await self._page(PLATFORM_TEAM, frozenset(Scope), which, limit)

    async def _page(self, team_id: TeamId, scopes: Collection[Scope], which: Filter, limit: int) -> Page:
        with self._search(team_id) if which.words else nullcontext():
            return await self._read(team_id, scopes, which, limit)

    @contextmanager
    def _search(self, team_id: TeamId) -> Generator[None]:
        if self._searching[team_id] >= _SEARCHES_OF_TEAM:
            raise RateLimited("The team searches the audit log at this moment. Try again.")
        self._searching[team_id] += 1
        try:
            yield
        finally:
            self._searching[team_id] -= 1
            if not self._searching[team_id]:
                del self._searching[team_id]

    async def _read(self, team_id: TeamId, scopes: Collection[Scope], which: Filter, limit: int) -> Page:
        until = self._settled
        if until is None or which.before is None or which.before > until:
            until = await settled_moment(self._database)
            self._settled = until if self._settled is None else max(self._settled, until)
        return await store.read(
            self._database,
            team_id,
            scopes,
            which,
            until=until,
            limit=min(limit, PAGE_LIMIT),
        )


def filter_of(
    *,
    before: str | None,
    before_id: str | None,
    since: str | None = None,
    text: str | None = None,
    resources: Sequence[str],
    actions: Sequence[str],
) -> Filter:
    """Parse the query parameters of a request.

    Raises:
        InvalidRequest: the message names the parameter.
    """
    if before_id is not None and before is None:
        raise InvalidRequest("before_id: goes with before, which is absent.")
    try:
        entry_id = None if before_id is None else AuditId.parse(before_id)
    except InvalidRequest as error:
        raise InvalidRequest(f"before_id: {error.message}") from error
    return Filter(
        resources=_names("resource_type", resources),
        actions=_names("action", actions),
        before=None if before is None else _time("before", before),
        before_id=entry_id,
        since=None if since is None else _time("since", since),
        words=_words_of(text or ""),
    )


def _words_of(text: str) -> tuple[str, ...]:
    if "\0" in text or len(words := text.lower().split()) > _WORDS_LIMIT:
        raise InvalidRequest(f"q: must be at most {_WORDS_LIMIT} words.")
    return tuple(words)


def _time(parameter: str, text: str) -> datetime:
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        pass  # no such day, or outside of what a time can be
    raise InvalidRequest(f"{parameter}: must be a time as in RFC 3339, like 2026-01-31T12:00:00.123456Z.")


def _names(parameter: str, given: Sequence[str]) -> frozenset[str]:
    names = frozenset(name.strip() for text in given for name in text.split(",") if name.strip())
    if len(names) > _NAMES_LIMIT or not all(_NAME.fullmatch(name) for name in names):
        raise InvalidRequest(
            f"{parameter}: must be at most {_NAMES_LIMIT} names of letters, digits, '_', '.' or '-'."
        )
    return names
