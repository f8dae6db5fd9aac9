"""Statements that read the audit log, and that delete its old entries."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, Select, Text, func, select, tuple_

from wrenn.base.ids import AuditId, TeamId
from wrenn.control.audit import Actor, ActorKind, Entry, Scope, audit_logs
from wrenn.control.db import Database

_c = audit_logs.c
SEARCHED: Final = 20_000
"""So many entries are looked at by one search."""
_SEARCHED_COLUMNS: Final = (
    "actor_type", "actor_id", "actor_name", "resource_type", "resource_id", "action", "status", "metadata",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries to read: of these kinds (empty: all), and older than the cursor.

    Attributes:
        before: older than this time, or of this time with an id below `before_id`.
        since: of this time, or newer.
        words: in lower case; all of them are somewhere in the entry.
    """

    resources: Collection[str] = ()
    actions: Collection[str] = ()
    before: datetime | None = None
    before_id: AuditId | None = None
    since: datetime | None = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Entries, newest first, and the last one that was looked at: the next page goes on behind it. None: there are no more."""

    entries: list[Entry]
    last: tuple[datetime, AuditId] | None


async def read(
    database: Database,
    team_id: TeamId,
    scopes: Collection[Scope],
    which: Filter,
    *,
    until: datetime,
    limit: int,
) -> Page:
    """Return up to `limit` entries of the team that are not newer than `until`, newest first.

    A search for words looks at `SEARCHED` entries at most.
    """
    query = _matching(team_id, scopes, which, until)
    if not which.words:
        entries = [_entry(row) for row in await database.execute(query.limit(limit), repeatable=True)]
        return Page(entries, _position(entries))
    looked_at = query.limit(SEARCHED).subquery("looked_at")
    text = func.lower(func.concat_ws(" ", *(looked_at.c[name].cast(Text) for name in _SEARCHED_COLUMNS)))
    found = (
        select(looked_at)
        .where(*(func.strpos(text, word) > 0 for word in which.words))
        .order_by(looked_at.c.created_at.desc(), looked_at.c.id.desc())
        .limit(limit)
    )
    entries = [_entry(row) for row in await database.execute(found, repeatable=True)]
    if len(entries) == limit:
        return Page(entries, _position(entries))
    last = query.with_only_columns(_c.created_at, _c.id).offset(SEARCHED - 1).limit(1)
    row = (await database.execute(last, repeatable=True)).one_or_none()
    return Page(entries, None if row is None else (row.created_at, AuditId(row.id)))


def _position(entries: list[Entry]) -> tuple[datetime, AuditId] | None:
    return (entries[-1].created_at, entries[-1].entry_id) if entries else None


def _matching(team_id: TeamId, scopes: Collection[Scope], which: Filter, until: datetime) -> Select[Any]:
    query = (
        select(audit_logs)
        .where(_c.team_id == team_id.value, _c.scope.in_(sorted(scopes)), _c.created_at < until)
        .order_by(_c.created_at.desc(), _c.id.desc())
    )
    if which.resources:
        query = query.where(_c.resource_type.in_(sorted(which.resources)))
    if which.actions:
        query = query.where(_c.action.in_(sorted(which.actions)))
    if which.before is not None and which.before_id is not None:
        query = query.where(tuple_(_c.created_at, _c.id) < tuple_(which.before, which.before_id.value))
    elif which.before is not None:
        query = query.where(_c.created_at < which.before)
    if which.since is not None:
        query = query.where(_c.created_at >= which.since)
    return query


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        entry_id=AuditId(row.id),
        actor=Actor(ActorKind(row.actor_type), row.actor_id, row.actor_name),
        resource=row.resource_type,
        resource_id=row.resource_id,
        action=row.action,
        scope=row.scope,
        status=row.status,
        facts=row.metadata,
        created_at=row.created_at,
    )


async def expire(database: Database, *, days: int, most: int) -> int:
    """Delete up to `most` entries that are older than this many days; returns how many."""
    return (await database.execute(select(func.wrenn_audit_expire(days, most)))).scalar_one()
