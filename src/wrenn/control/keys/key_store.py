"""Statements on API keys, for the endpoints of a team's keys."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select

from wrenn.base.ids import KeyId, TeamId, UserId
from wrenn.control.auth import Scope
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import team_api_keys as keys
from wrenn.control.identity import users


@dataclass(frozen=True, slots=True)
class Key:
    """An API key, without what it is secret for."""

    key_id: KeyId
    team_id: TeamId
    name: str
    key_prefix: str
    created_by: UserId
    creator_email: str
    created_at: datetime
    last_used: datetime | None
    expires_at: datetime | None
    scope: Scope


def _select(team_id: TeamId) -> Any:
    return (
        select(keys, users.c.email.label("creator_email"))
        .join(users, users.c.id == keys.c.created_by)
        .where(keys.c.team_id == team_id.value)
    )


def _key(row: Any) -> Key:
    return Key(
        key_id=KeyId(row.id),
        team_id=TeamId(row.team_id),
        name=row.name,
        key_prefix=row.key_prefix,
        created_by=UserId(row.created_by),
        creator_email=row.creator_email,
        created_at=row.created_at,
        last_used=row.last_used,
        expires_at=row.expires_at,
        scope=Scope(row.scope),
    )


async def of_team(database: Database, team_id: TeamId) -> list[Key]:
    """The team's keys, newest first."""
    query = _select(team_id).order_by(keys.c.created_at.desc(), keys.c.id)
    return [_key(row) for row in await database.execute(query, repeatable=True)]


async def by_hash(tx: Transaction, team_id: TeamId, key_hash: str) -> Key:
    """One that was just made."""
    return _key((await tx.execute(_select(team_id).where(keys.c.key_hash == key_hash))).one())


async def count(tx: Transaction, team_id: TeamId) -> int:
    """How many keys the team has."""
    found = await tx.execute(select(func.count()).select_from(keys).where(keys.c.team_id == team_id.value))
    return int(found.scalar_one())


async def revoke(tx: Transaction, team_id: TeamId, key_id: KeyId) -> bool:
    """Have the key not work any more, on any replica; whether there was one."""
    gone = await tx.execute(
        delete(keys).where(keys.c.team_id == team_id.value, keys.c.id == key_id.value).returning(keys.c.id)
    )
    return gone.one_or_none() is not None
