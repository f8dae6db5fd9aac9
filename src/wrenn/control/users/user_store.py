"""Statements on users and the teams that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from wrenn.base.ids import TeamId, UserId
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import Role, teams, users, users_teams
from wrenn.control.users.tables import oauth_providers

_ADMINS_LOCK = 0x61646D696E73
"""Advisory lock of whoever makes the admins of the platform fewer: "admins"."""

_c = users.c


@dataclass(frozen=True, slots=True)
class User:
    """A user's account."""

    user_id: UserId
    email: str
    name: str
    password_hash: str | None
    is_admin: bool
    status: str
    is_email_verified: bool


@dataclass(frozen=True, slots=True)
class TeamRole:
    """A team that a user belongs to, and the user's role in it."""

    team_id: TeamId
    role: Role


def _user(row: Any) -> User:
    return User(
        UserId(row.id),
        row.email,
        row.name,
        row.password_hash,
        row.is_admin,
        row.status,
        row.email_verified_at is not None,
    )


async def insert_user(tx: Transaction, *, email: str, name: str, password_hash: str | None) -> UserId | None:
    """Insert a user and return its id; None: the e-mail address is taken."""
    made = await tx.execute(
        upsert(users)
        .values(id=UserId.new().value, email=email, name=name, password_hash=password_hash)
        .on_conflict_do_nothing(index_elements=["email"])
        .returning(_c.id)
    )
    found = made.scalar_one_or_none()
    return None if found is None else UserId(found)


async def find_by_email(database: Database, email: str) -> User | None:
    """Return the user with this e-mail address; None: there is none."""
    row = (await database.execute(select(users).where(_c.email == email), repeatable=True)).one_or_none()
    return None if row is None else _user(row)


async def find(database: Database, user_id: UserId) -> User:
    """Return a user that is known to exist."""
    return _user((await database.execute(select(users).where(_c.id == user_id.value), repeatable=True)).one())


async def load(tx: Transaction, user_id: UserId) -> User:
    """Return a user that is known to exist, inside a transaction."""
    return _user((await tx.execute(select(users).where(_c.id == user_id.value))).one())


async def lock(tx: Transaction, user_id: UserId) -> User | None:
    """Return the user, locked until this transaction ends; None: there is none."""
    row = (await tx.execute(select(users).where(_c.id == user_id.value).with_for_update())).one_or_none()
    return None if row is None else _user(row)


async def lock_by_email(tx: Transaction, email: str) -> User | None:
    """Return the user with this e-mail address, locked until this transaction ends; None: there is none."""
    row = (await tx.execute(select(users).where(_c.email == email).with_for_update())).one_or_none()
    return None if row is None else _user(row)


async def set_password(tx: Transaction, user_id: UserId, password_hash: str) -> None:
    """Store another password hash."""
    await _update(tx, user_id, password_hash=password_hash)


async def set_email_verified(tx: Transaction, user_id: UserId) -> None:
    """Mark the e-mail address as verified now, unless it was verified before."""
    await _update(tx, user_id, email_verified_at=func.coalesce(_c.email_verified_at, func.now()))


async def set_name(tx: Transaction, user_id: UserId, name: str) -> None:
    """Store another name."""
    await _update(tx, user_id, name=name)


async def set_status(tx: Transaction, user_id: UserId, status: str) -> None:
    """Set the status to active or disabled."""
    await _update(tx, user_id, status=status)


async def set_admin(tx: Transaction, user_id: UserId, *, is_admin: bool) -> None:
    """Set whether the user is an admin of the platform."""
    await _update(tx, user_id, is_admin=is_admin)


async def erase(tx: Transaction, user_id: UserId) -> list[tuple[TeamId, bool]]:
    """Erase the personal data of a user; the row stays, since API keys and the audit log refer to it.

    Returns the teams that the user was in, and whether each keeps the keys that the user made.
    """
    await _update(
        tx,
        user_id,
        status="deleted",
        email=f"{user_id}@deleted.invalid",
        name="",
        email_verified_at=None,
        password_hash=None,
        is_admin=False,
        deleted_at=func.now(),
    )
    await unlink_all(tx, user_id)
    left = (
        delete(users_teams)
        .where(users_teams.c.user_id == user_id.value)
        .returning(users_teams.c.team_id)
        .cte("gone")
    )
    found = await tx.execute(
        select(teams.c.id, teams.c.keeps_keys_of_removed)
        .join(left, left.c.team_id == teams.c.id)
        .where(teams.c.deleted_at.is_(None))
    )
    return [(TeamId(row.id), row.keeps_keys_of_removed) for row in found]


async def _update(tx: Transaction, user_id: UserId, **values: Any) -> None:
    await tx.execute(update(users).where(_c.id == user_id.value).values(**values, updated_at=func.now()))


async def current_team_of(
    tx: Transaction, user_id: UserId, preferred: TeamId | None = None
) -> TeamRole | None:
    """Return the preferred team if the user belongs to it, else the default team, else the one joined first; None: no team."""
    found = await tx.execute(
        select(users_teams.c.team_id, users_teams.c.role)
        .join(teams, teams.c.id == users_teams.c.team_id)
        .where(users_teams.c.user_id == user_id.value, teams.c.deleted_at.is_(None))
        .order_by(
            *([] if preferred is None else [(users_teams.c.team_id == preferred.value).desc()]),
            users_teams.c.is_default.desc(),
            users_teams.c.created_at,
            users_teams.c.team_id,
        )
        .limit(1)
    )
    row = found.one_or_none()
    return None if row is None else TeamRole(TeamId(row.team_id), Role(row.role))


async def lock_admins(tx: Transaction) -> None:
    """Let no other transaction revoke admin rights until this one ends."""
    await tx.execute(select(func.pg_advisory_xact_lock(_ADMINS_LOCK)))


async def is_last_admin(tx: Transaction, user_id: UserId) -> bool:
    """Whether the user is the only active admin of the platform. Call it under `lock_admins`."""
    others = select(_c.id).where(_c.is_admin, _c.status == "active", _c.id != user_id.value)
    mine = select(_c.is_admin).where(_c.id == user_id.value)
    found = await tx.execute(select(mine.scalar_subquery(), exists(others)))
    is_admin, has_others = found.one()
    return bool(is_admin) and not has_others


async def search(database: Database, user_id: UserId, text: str, *, limit: int) -> list[tuple[UserId, str]]:
    """Return active users who share a team with this user and whose address begins with `text`, and the user with exactly this address."""
    mine = select(users_teams.c.team_id).where(users_teams.c.user_id == user_id.value)
    colleagues = (
        select(users_teams.c.user_id)
        .join(teams, teams.c.id == users_teams.c.team_id)
        .where(users_teams.c.team_id.in_(mine), teams.c.deleted_at.is_(None))
    )
    visible: ColumnElement[bool] = or_(
        _c.email == text, and_(_c.email.startswith(text, autoescape=True), _c.id.in_(colleagues))
    )
    found = await database.execute(
        select(_c.id, _c.email).where(_c.status == "active", visible).order_by(_c.email).limit(limit),
        repeatable=True,
    )
    return [(UserId(row.id), row.email) for row in found]


async def providers_of(database: Database, user_id: UserId) -> list[str]:
    """Return the names of the sign-in providers that the user linked."""
    found = await database.execute(
        select(oauth_providers.c.provider)
        .where(oauth_providers.c.user_id == user_id.value)
        .order_by(oauth_providers.c.provider),
        repeatable=True,
    )
    return list(found.scalars())


async def user_of_identity(tx: Transaction, provider: str, provider_id: str) -> User | None:
    """Return the user that this identity is linked to; None: it is linked to none."""
    found = await tx.execute(
        select(users)
        .join(oauth_providers, oauth_providers.c.user_id == _c.id)
        .where(oauth_providers.c.provider == provider, oauth_providers.c.provider_id == provider_id)
    )
    row = found.one_or_none()
    return None if row is None else _user(row)


async def link(tx: Transaction, user_id: UserId, *, provider: str, provider_id: str, email: str) -> bool:
    """Link an identity to the user; False: it, or another one of this provider, is linked already."""
    made = await tx.execute(
        upsert(oauth_providers)
        .values(provider=provider, provider_id=provider_id, user_id=user_id.value, email=email)
        .on_conflict_do_nothing()
        .returning(oauth_providers.c.provider)
    )
    return made.one_or_none() is not None


async def unlink(tx: Transaction, user_id: UserId, provider: str) -> bool:
    """Remove the link to a provider; whether there was one."""
    gone = await tx.execute(
        delete(oauth_providers)
        .where(oauth_providers.c.user_id == user_id.value, oauth_providers.c.provider == provider)
        .returning(oauth_providers.c.provider)
    )
    return gone.one_or_none() is not None


async def unlink_all(tx: Transaction, user_id: UserId) -> None:
    """Remove the links to all providers."""
    await tx.execute(delete(oauth_providers).where(oauth_providers.c.user_id == user_id.value))


async def count_links(tx: Transaction, user_id: UserId) -> int:
    """Count the linked providers."""
    found = await tx.execute(
        select(func.count()).select_from(oauth_providers).where(oauth_providers.c.user_id == user_id.value)
    )
    return int(found.scalar_one())


async def add_member(tx: Transaction, team_id: TeamId, user_id: UserId) -> bool:
    """Add the user to the team as a member; False: the user is one already."""
    made = await tx.execute(
        upsert(users_teams)
        .values(team_id=team_id.value, user_id=user_id.value, role=Role.MEMBER)
        .on_conflict_do_nothing()
        .returning(users_teams.c.user_id)
    )
    return made.one_or_none() is not None


async def count_owned(tx: Transaction, user_id: UserId) -> int:
    """Count the teams that the user owns."""
    found = await tx.execute(
        select(func.count())
        .select_from(users_teams.join(teams, teams.c.id == users_teams.c.team_id))
        .where(
            users_teams.c.user_id == user_id.value,
            users_teams.c.role == Role.OWNER,
            teams.c.deleted_at.is_(None),
        )
    )
    return int(found.scalar_one())


async def lock_teams(tx: Transaction, user_id: UserId) -> Sequence[TeamId]:
    """Lock and return the teams that the user belongs to. Call it before the user is locked, as others lock the team first."""
    found = await tx.execute(
        _select_teams(user_id).order_by(teams.c.id).with_for_update(of=teams, key_share=True)
    )
    return [TeamId(row.id) for row in found]


async def teams_of(tx: Transaction, user_id: UserId) -> Sequence[TeamId]:
    """Return the teams that the user belongs to."""
    return [TeamId(row.id) for row in await tx.execute(_select_teams(user_id))]


def _select_teams(user_id: UserId) -> Any:
    return (
        select(teams.c.id)
        .join(users_teams, users_teams.c.team_id == teams.c.id)
        .where(users_teams.c.user_id == user_id.value, teams.c.deleted_at.is_(None))
    )


async def owned_teams(tx: Transaction, user_id: UserId) -> Sequence[tuple[TeamId, bool]]:
    """Return the teams that the user owns, and whether each has other members. The caller holds `lock_teams`."""
    found = await tx.execute(
        select(teams.c.id)
        .join(users_teams, users_teams.c.team_id == teams.c.id)
        .where(
            users_teams.c.user_id == user_id.value,
            users_teams.c.role == Role.OWNER,
            teams.c.deleted_at.is_(None),
        )
        .order_by(teams.c.id)
    )
    owned = [TeamId(row.id) for row in found]
    result: list[tuple[TeamId, bool]] = []
    for team_id in owned:
        others = await tx.execute(
            select(func.count())
            .select_from(users_teams)
            .where(users_teams.c.team_id == team_id.value, users_teams.c.user_id != user_id.value)
        )
        result.append((team_id, others.scalar_one() > 0))
    return result
