"""Statements that read the audit log, and that delete its old entries."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, select, tuple_

from wrenn.base.ids import AuditId, TeamId
from wrenn.control.audit import Actor, ActorKind, Entry, Scope, audit_logs
from wrenn.control.db import Database

_c = audit_logs.c


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries to read: of these kinds (empty: all), and older than the cursor.

    Attributes:
        before: older than this time, or of this time with an id below `before_id`.
    """

    resources: Collection[str] = ()
    actions: Collection[str] = ()
    before: datetime | None = None
    before_id: AuditId | None = None


async def read(
    database: Database,
    team_id: TeamId,
    scopes: Collection[Scope],
    which: Filter,
    *,
    until: datetime,
    limit: int,
) -> list[Entry]:
    """Return up to `limit` entries of the team that are not newer than `until`, newest first."""
    query = (
        select(audit_logs)
        .where(_c.team_id == team_id.value, _c.scope.in_(sorted(scopes)), _c.created_at < until)
        .order_by(_c.created_at.desc(), _c.id.desc())
        .limit(limit)
    )
    if which.resources:
        query = query.where(_c.resource_type.in_(sorted(which.resources)))
    if which.actions:
        query = query.where(_c.action.in_(sorted(which.actions)))
    if which.before is not None and which.before_id is not None:
        query = query.where(tuple_(_c.created_at, _c.id) < tuple_(which.before, which.before_id.value))
    elif which.before is not None:
        query = query.where(_c.created_at < which.before)
    return [_entry(row) for row in await database.execute(query, repeatable=True)]


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
