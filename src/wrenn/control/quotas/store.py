"""Statements on limits of teams."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, Final

from sqlalchemy import CTE, ColumnElement, Row, Select, Text, and_, cast, func, select
from sqlalchemy.dialects.postgresql import insert as upsert

from wrenn.base.ids import TeamId
from wrenn.control.audit import PLATFORM_TEAM, Actor, AuditAction, Resource, Scope, Status, record
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import teams, users_teams
from wrenn.control.quotas.limits import Limits
from wrenn.control.quotas.tables import team_limits

_NAMES: Final = [field.name for field in fields(Limits)]
_OWNER_LOCK: Final = 0x71756F74
"""First half of the advisory lock of whoever counts what an owner's snapshots take: "quot"."""

LIMIT_COLUMNS: Final = [team_limits.c[name].label(f"limit_{name}") for name in _NAMES]
"""For a query that reads limits and usage together; `limits_of` reads them."""


def limits_of(row: Row[Any]) -> Limits:
    """Read the team's own limits from a row with `LIMIT_COLUMNS`."""
    return Limits(**{name: getattr(row, f"limit_{name}") for name in _NAMES})


def owned_together(team_id: ColumnElement[Any]) -> CTE:
    """SQL: the ids of all teams that this team's owner owns, including this one."""
    mine = users_teams.alias("mine")
    owner = select(mine.c.user_id).where(mine.c.team_id == team_id, mine.c.role == "owner").scalar_subquery()
    return (
        select(users_teams.c.team_id)
        .join(teams, and_(teams.c.id == users_teams.c.team_id, teams.c.deleted_at.is_(None)))
        .where(users_teams.c.user_id == owner, users_teams.c.role == "owner")
        .union(select(team_id.label("team_id")))
        .cte("owned_together")
    )


def most_of(owned: CTE) -> Select[*tuple[Any, ...]]:
    """SQL: one row with the highest own limit of each kind among these teams, read by `owner_limits_of`."""
    return select(*(func.max(team_limits.c[name]).label(f"most_{name}") for name in _NAMES)).where(
        team_limits.c.team_id.in_(select(owned.c.team_id))
    )


def owner_limits_of(row: Row[Any], defaults: Limits) -> Limits:
    """Return an owner's limits over all own teams: the default, or more if an admin gave one of the teams more."""
    return defaults.widened(Limits(**{name: getattr(row, f"most_{name}") for name in _NAMES}))


async def lock_owner(tx: Transaction, team_id: TeamId) -> None:
    """Let nobody else count the snapshots of this team's owner until the transaction ends."""
    # One of many owners may wait for another; none is refused for it.
    owner = (
        select(cast(users_teams.c.user_id, Text))
        .where(users_teams.c.team_id == team_id.value, users_teams.c.role == "owner")
        .scalar_subquery()
    )
    part: ColumnElement[int] = func.hashtext(func.coalesce(owner, str(team_id.value)))
    await tx.execute(select(func.pg_advisory_xact_lock(_OWNER_LOCK, part)))


async def load(database: Database, team_id: TeamId) -> Limits | None:
    """Return a team's own limits; None: there is no such team."""
    found = await database.execute(
        select(teams.c.id, *LIMIT_COLUMNS)
        .select_from(teams.outerjoin(team_limits, team_limits.c.team_id == teams.c.id))
        .where(teams.c.id == team_id.value, teams.c.deleted_at.is_(None)),
        repeatable=True,
    )
    row = found.one_or_none()
    return None if row is None else limits_of(row)


async def write(tx: Transaction, team_id: TeamId, limits: Limits, *, by: Actor) -> bool:
    """Set all limits of a team; False: there is no such team."""
    found = await tx.execute(
        select(teams.c.id, *LIMIT_COLUMNS)
        .select_from(teams.outerjoin(team_limits, team_limits.c.team_id == teams.c.id))
        .where(teams.c.id == team_id.value, teams.c.deleted_at.is_(None))
        .with_for_update(read=True, of=teams)
    )
    row = found.one_or_none()
    if row is None or limits_of(row) == limits:
        return row is not None
    values = asdict(limits)
    wanted = upsert(team_limits).values(team_id=team_id.value, **values)
    await tx.execute(
        wanted.on_conflict_do_update(index_elements=["team_id"], set_=values | {"updated_at": func.now()})
    )
    facts = {name: value for name, value in values.items() if value is not None}
    action = AuditAction(Resource.TEAM, "set_limits", Status.INFO, Scope.ADMIN, facts)
    await record(tx, PLATFORM_TEAM, by, action, str(team_id))
    return True
