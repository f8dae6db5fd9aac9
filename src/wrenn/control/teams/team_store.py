"""Statements on teams and memberships. Callers that change a membership hold the lock of its team."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, delete, func, select, update

from wrenn.base.errors import Forbidden, NotFound
from wrenn.base.ids import KeyId, TeamId, UserId
from wrenn.control.audit import PLATFORM_TEAM
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import Role, team_api_keys, teams, users, users_teams

_t = teams.c
_m = users_teams.c


@dataclass(frozen=True, slots=True)
class Team:
    """A team that is not deleted."""

    team_id: TeamId
    name: str
    slug: str
    is_byoc: bool
    created_at: datetime
    keeps_keys_of_removed: bool


@dataclass(frozen=True, slots=True)
class Membership:
    """A member of a team."""

    user_id: UserId
    name: str
    email: str
    role: Role
    joined_at: datetime


def team_of(row: Any) -> Team:
    """Convert a row to a value."""
    return Team(TeamId(row.id), row.name, row.slug, row.is_byoc, row.created_at, row.keeps_keys_of_removed)


def _is(team_id: TeamId) -> Any:
    return and_(_t.id == team_id.value, _t.id != PLATFORM_TEAM.value, _t.deleted_at.is_(None))


async def exists(tx: Transaction, team_id: TeamId) -> bool:
    """Whether there is such a team."""
    return (await tx.execute(select(_t.id).where(_is(team_id)))).one_or_none() is not None


async def lock(tx: Transaction, team_id: TeamId) -> Team:
    """Return the team, locked: nobody else changes its memberships until this transaction ends.

    Raises:
        NotFound: it is gone.
    """
    row = (await tx.execute(select(teams).where(_is(team_id)).with_for_update(key_share=True))).one_or_none()
    if row is None:
        raise NotFound(f"There is no team {team_id}.")
    return team_of(row)


async def role_of(tx: Transaction, team_id: TeamId, user_id: UserId) -> Role | None:
    """Return the user's role in the team; None: not a member."""
    found = await tx.execute(select(_m.role).where(_m.team_id == team_id.value, _m.user_id == user_id.value))
    role = found.scalar_one_or_none()
    return None if role is None else Role(role)


async def has_member(tx: Transaction, team_id: TeamId, email: str) -> bool:
    """Whether the user with this e-mail address belongs to the team."""
    found = await tx.execute(_select_members(team_id).where(users.c.email == email))
    return found.one_or_none() is not None


async def expect_member(tx: Transaction, team_id: TeamId, user_id: UserId) -> Role:
    """Return the user's role in the team.

    Raises:
        Forbidden: no member.
    """
    role = await role_of(tx, team_id, user_id)
    if role is None:
        raise Forbidden("You are not a member of this team.")
    return role


async def of_user(database: Database, user_id: UserId) -> list[tuple[Team, Role]]:
    """Return the user's teams with the user's role in each, in the order of joining."""
    found = await database.execute(
        select(teams, _m.role)
        .join(users_teams, _m.team_id == _t.id)
        .where(_m.user_id == user_id.value, _t.deleted_at.is_(None))
        .order_by(_m.created_at, _t.id),
        repeatable=True,
    )
    return [(team_of(row), Role(row.role)) for row in found]


async def load(database: Database, team_id: TeamId) -> Team | None:
    """Return one team; None: there is no such team."""
    row = (await database.execute(select(teams).where(_is(team_id)), repeatable=True)).one_or_none()
    return None if row is None else team_of(row)


def _select_members(team_id: TeamId) -> Any:
    return (
        select(users.c.id, users.c.name, users.c.email, _m.role, _m.created_at)
        .join(users_teams, _m.user_id == users.c.id)
        .where(_m.team_id == team_id.value)
        .order_by(_m.created_at, users.c.id)
    )


def _member(row: Any) -> Membership:
    return Membership(UserId(row.id), row.name, row.email, Role(row.role), row.created_at)


async def members(database: Database, team_id: TeamId) -> list[Membership]:
    """Return the members of the team, in the order of joining."""
    return [_member(row) for row in await database.execute(_select_members(team_id), repeatable=True)]


async def set_role(tx: Transaction, team_id: TeamId, user_id: UserId, role: Role) -> None:
    """Change the role of a member.

    Raises:
        NotFound: no such member.
    """
    changed = await tx.execute(
        update(users_teams)
        .where(_m.team_id == team_id.value, _m.user_id == user_id.value)
        .values(role=role)
        .returning(_m.user_id)
    )
    if changed.one_or_none() is None:
        raise NotFound(f"The team has no member {user_id}.")


async def remove_member(tx: Transaction, team_id: TeamId, user_id: UserId) -> None:
    """Delete a membership."""
    await tx.execute(delete(users_teams).where(_m.team_id == team_id.value, _m.user_id == user_id.value))


async def rename(tx: Transaction, team_id: TeamId, name: str) -> None:
    """Change the name of the team."""
    await tx.execute(update(teams).where(_t.id == team_id.value).values(name=name))


async def set_keeps_keys_of_removed(tx: Transaction, team_id: TeamId, *, keeps: bool) -> None:
    """Set whether the API keys of removed members are kept."""
    await tx.execute(update(teams).where(_t.id == team_id.value).values(keeps_keys_of_removed=keeps))


async def set_byoc(tx: Transaction, team_id: TeamId) -> None:
    """Allow the team to bring its own hosts."""
    await tx.execute(update(teams).where(_t.id == team_id.value).values(is_byoc=True))


async def delete_team(tx: Transaction, team_id: TeamId) -> None:
    """Mark the team as deleted and delete its API keys; its slug stays taken."""
    await tx.execute(update(teams).where(_t.id == team_id.value).values(deleted_at=func.now()))
    await tx.execute(delete(team_api_keys).where(team_api_keys.c.team_id == team_id.value))


async def revoke_keys_by(tx: Transaction, team_id: TeamId, user_id: UserId) -> list[KeyId]:
    """Delete the team's API keys that this user made; returns which."""
    gone = await tx.execute(
        delete(team_api_keys)
        .where(team_api_keys.c.team_id == team_id.value, team_api_keys.c.created_by == user_id.value)
        .returning(team_api_keys.c.id)
    )
    return [KeyId(key_id) for key_id in gone.scalars()]


async def revoke_all_keys_by(tx: Transaction, user_id: UserId) -> dict[TeamId, list[KeyId]]:
    """Delete the API keys that this user made in every team; returns which."""
    gone = await tx.execute(
        delete(team_api_keys)
        .where(team_api_keys.c.created_by == user_id.value)
        .returning(team_api_keys.c.team_id, team_api_keys.c.id)
    )
    revoked: dict[TeamId, list[KeyId]] = {}
    for row in gone:
        revoked.setdefault(TeamId(row.team_id), []).append(KeyId(row.id))
    return revoked
