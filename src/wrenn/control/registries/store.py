"""Statements on credentials of registries. The sealed password is read only where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from wrenn.base.ids import TeamId
from wrenn.control.audit import Actor, actor_json
from wrenn.control.db import Database, Transaction
from wrenn.control.registries.tables import registry_credentials as table


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """What a team set for a registry, without the password."""

    registry: str
    username: str
    set_by: dict[str, Any] | None
    set_at: datetime


_COLUMNS = (table.c.registry, table.c.username, table.c.set_by, table.c.set_at)


def _login(row: Any) -> RegistryLogin:
    return RegistryLogin(row.registry, row.username, row.set_by, row.set_at)


async def put(
    tx: Transaction, team_id: TeamId, registry: str, username: str, sealed: bytes, *, by: Actor
) -> RegistryLogin:
    """Insert or replace the team's credentials of a registry."""
    values = {"username": username, "sealed_password": sealed, "set_by": actor_json(by), "set_at": func.now()}
    statement = (
        insert(table)
        .values(team_id=team_id.value, registry=registry, **values)
        .on_conflict_do_update(index_elements=[table.c.team_id, table.c.registry], set_=values)
        .returning(*_COLUMNS)
    )
    return _login((await tx.execute(statement)).one())


async def count_others(tx: Transaction, team_id: TeamId, registry: str) -> int:
    """Return how many other registries the team has credentials of."""
    others = select(func.count()).where(table.c.team_id == team_id.value, table.c.registry != registry)
    return int((await tx.execute(others)).scalar_one())


async def of_team(database: Database, team_id: TeamId) -> list[RegistryLogin]:
    """Return what the team has, by registry."""
    query = select(*_COLUMNS).where(table.c.team_id == team_id.value).order_by(table.c.registry)
    return [_login(row) for row in await database.execute(query, repeatable=True)]


async def sealed_of(database: Database, team_id: TeamId, registry: str) -> tuple[str, bytes] | None:
    """Return user name and sealed password of the team for a registry."""
    query = select(table.c.username, table.c.sealed_password).where(
        table.c.team_id == team_id.value, table.c.registry == registry
    )
    row = (await database.execute(query, repeatable=True)).one_or_none()
    return None if row is None else (row.username, bytes(row.sealed_password))


async def remove(tx: Transaction, team_id: TeamId, registry: str) -> bool:
    """Delete the team's credentials of a registry. Return whether there were any."""
    gone = await tx.execute(
        delete(table)
        .where(table.c.team_id == team_id.value, table.c.registry == registry)
        .returning(table.c.registry)
    )
    return gone.one_or_none() is not None


async def remove_of_team(tx: Transaction, team_id: TeamId) -> None:
    """Delete all credentials of a team."""
    await tx.execute(delete(table).where(table.c.team_id == team_id.value))
