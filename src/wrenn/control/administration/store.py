"""Queries for the lists of users and teams that admins of the platform see, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import and_, func, select

from wrenn.base.ids import TeamId, UserId
from wrenn.control.audit import PLATFORM_TEAM
from wrenn.control.db import Database
from wrenn.control.identity import Role, teams, users, users_teams

PAGE_SIZE: Final = 100


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A user, as admins of the platform see it."""

    user_id: UserId
    email: str
    is_email_verified: bool
    name: str
    status: str
    is_admin: bool
    created_at: datetime
    teams_joined: int
    teams_owned: int


@dataclass(frozen=True, slots=True)
class TeamRecord:
    """A team, also a deleted one, as admins of the platform see it."""

    team_id: TeamId
    name: str
    slug: str
    is_byoc: bool
    created_at: datetime
    deleted_at: datetime | None
    member_count: int
    owner_name: str | None
    owner_email: str | None


async def users_page(database: Database, page: int) -> tuple[list[UserRecord], int]:
    """Return one page (from 1) of the users that are not deleted, and how many there are."""
    joined = (
        select(
            users_teams.c.user_id,
            func.count().label("joined"),
            func.count().filter(users_teams.c.role == Role.OWNER).label("owned"),
        )
        .join(teams, and_(teams.c.id == users_teams.c.team_id, teams.c.deleted_at.is_(None)))
        .group_by(users_teams.c.user_id)
        .subquery()
    )
    found = await database.execute(
        select(
            users,
            func.coalesce(joined.c.joined, 0).label("joined"),
            func.coalesce(joined.c.owned, 0).label("owned"),
        )
        .outerjoin(joined, joined.c.user_id == users.c.id)
        .where(users.c.status != "deleted")
        .order_by(users.c.created_at.desc(), users.c.id)
        .limit(PAGE_SIZE)
        .offset((page - 1) * PAGE_SIZE),
        repeatable=True,
    )
    total = await database.execute(
        select(func.count()).select_from(users).where(users.c.status != "deleted"), repeatable=True
    )
    return [
        UserRecord(
            UserId(row.id),
            row.email,
            row.email_verified_at is not None,
            row.name,
            row.status,
            row.is_admin,
            row.created_at,
            row.joined,
            row.owned,
        )
        for row in found
    ], int(total.scalar_one())


async def teams_page(database: Database, page: int) -> tuple[list[TeamRecord], int]:
    """Return one page (from 1) of all teams, and how many there are."""
    counted = (
        select(users_teams.c.team_id, func.count().label("members"))
        .group_by(users_teams.c.team_id)
        .subquery()
    )
    owner = users_teams.alias("owner")
    is_somebodys = teams.c.id != PLATFORM_TEAM.value
    found = await database.execute(
        select(
            teams,
            func.coalesce(counted.c.members, 0).label("members"),
            users.c.name.label("owner_name"),
            users.c.email.label("owner_email"),
        )
        .outerjoin(counted, counted.c.team_id == teams.c.id)
        .outerjoin(owner, and_(owner.c.team_id == teams.c.id, owner.c.role == Role.OWNER))
        .outerjoin(users, users.c.id == owner.c.user_id)
        .where(is_somebodys)
        .order_by(teams.c.created_at.desc(), teams.c.id)
        .limit(PAGE_SIZE)
        .offset((page - 1) * PAGE_SIZE),
        repeatable=True,
    )
    total = await database.execute(
        select(func.count()).select_from(teams).where(is_somebodys), repeatable=True
    )
    return [
        TeamRecord(
            TeamId(row.id),
            row.name,
            row.slug,
            row.is_byoc,
            row.created_at,
            row.deleted_at,
            row.members,
            row.owner_name,
            row.owner_email,
        )
        for row in found
    ], int(total.scalar_one())
