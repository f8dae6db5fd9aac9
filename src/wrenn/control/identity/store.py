"""Statements that create users, teams and API keys, and that keep a team from being deleted meanwhile."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, delete, exists, func, insert, or_, select
from sqlalchemy.dialects.postgresql import insert as upsert

from wrenn.base.errors import Unauthorized
from wrenn.base.ids import KeyId, TeamId, UserId, random_hex
from wrenn.base.secrets import Secret
from wrenn.control.audit import PLATFORM_TEAM
from wrenn.control.db import Database, Transaction
from wrenn.control.identity.key_formats import KeyFormat
from wrenn.control.identity.tables import team_api_keys as keys
from wrenn.control.identity.tables import teams, users, users_teams
from wrenn.protocol.api import API_KEY_PREFIX_LENGTH, API_KEY_START, E2B_KEY_START


async def ensure_user(tx: Transaction, *, email: str, name: str, is_admin: bool) -> UserId:
    """Return the user with this e-mail address, creating it if there is none."""
    await tx.execute(
        upsert(users)
        .values(id=UserId.new().value, email=email, name=name, is_admin=is_admin)
        .on_conflict_do_nothing(index_elements=["email"])
    )
    # The lock makes two first callers follow each other, so that one team is made and not two.
    found = await tx.execute(select(users.c.id).where(users.c.email == email).with_for_update())
    return UserId(found.scalar_one())


async def ensure_default_team(tx: Transaction, user_id: UserId, *, name: str) -> TeamId:
    """Return the user's default team, creating it with the user as owner if there is none."""
    found = await tx.execute(
        select(teams.c.id)
        .join(users_teams)
        .where(users_teams.c.user_id == user_id.value, users_teams.c.is_default, teams.c.deleted_at.is_(None))
    )
    known = found.scalar_one_or_none()
    if known is not None:
        return TeamId(known)
    return await insert_team(tx, user_id, name=name)


async def insert_team(tx: Transaction, owner_id: UserId, *, name: str, is_default: bool = True) -> TeamId:
    """Create a team that this user owns. `is_default`: it is the team that the user's sessions begin in."""
    team_id = TeamId.new()
    slug = f"{random_hex(3)}-{random_hex(3)}"
    await tx.execute(insert(teams).values(id=team_id.value, name=name, slug=slug))
    await tx.execute(
        insert(users_teams).values(
            team_id=team_id.value, user_id=owner_id.value, is_default=is_default, role="owner"
        )
    )
    return team_id


async def owning_user_of(database: Database, team_id: TeamId) -> UUID:
    """Return the id of the user who owns the team, or that of a team that nobody owns."""
    owner = select(users_teams.c.user_id).where(
        users_teams.c.team_id == team_id.value, users_teams.c.role == "owner"
    )
    found = await database.execute(owner, repeatable=True)
    return found.scalar_one_or_none() or team_id.value


async def ensure_platform_team(tx: Transaction) -> None:
    """Insert the platform's own team if it is not there. It has no members, is in no list of teams, and cannot be changed."""
    await tx.execute(
        upsert(teams)
        .values(id=PLATFORM_TEAM.value, name="platform", slug="platform")
        .on_conflict_do_nothing(index_elements=[teams.c.id])
    )


async def lock_active_team(tx: Transaction, team_id: TeamId) -> None:
    """Keep the team from being deleted until this transaction ends, so that what it inserts is removed with the team.

    Raises:
        Unauthorized: it has ended.
    """
    held = await tx.execute(
        select(teams.c.id)
        .where(teams.c.id == team_id.value, teams.c.deleted_at.is_(None))
        .with_for_update(read=True)
    )
    if held.one_or_none() is None:
        raise Unauthorized("The team is gone.")


async def may_write(tx: Transaction, team_id: TeamId, holder: KeyId | UserId) -> bool:
    """Return whether an API key or a user has access to the team, which is not deleted, and not only to read."""
    return (await tx.execute(writer(team_id, holder))).one_or_none() is not None


def writer(team_id: TeamId, holder: KeyId | UserId) -> Select[Any]:
    """SQL: one row if the API key or user has access to the team as in `may_write`. To the platform's own team admins of the platform have it."""
    if isinstance(holder, KeyId):
        query = (
            select(keys.c.id)
            .join(users, users.c.id == keys.c.created_by)
            .where(
                keys.c.id == holder.value,
                keys.c.team_id == team_id.value,
                keys.c.scope != "read",
                or_(keys.c.expires_at.is_(None), keys.c.expires_at > func.now()),
            )
        )
    elif team_id == PLATFORM_TEAM:
        query = select(users.c.id).where(users.c.id == holder.value, users.c.is_admin)
    else:
        query = (
            select(users.c.id)
            .join(users_teams, users_teams.c.user_id == users.c.id)
            .where(users.c.id == holder.value, users_teams.c.team_id == team_id.value)
        )
    is_active = exists().where(teams.c.id == team_id.value, teams.c.deleted_at.is_(None))
    return query.where(users.c.status != "disabled", is_active)


async def insert_key(
    tx: Transaction,
    *,
    team_id: TeamId,
    created_by: UserId,
    name: str,
    scope: str = "full",
    expires_at: datetime | None = None,
    key_format: KeyFormat = KeyFormat.WRENN,
) -> Secret:
    """Create an API key of this team and return its text, which is stored nowhere."""
    key = _new_key(key_format)
    await tx.execute(
        insert(keys).values(
            id=KeyId.new().value,
            team_id=team_id.value,
            name=name,
            key_hash=key.sha256_hex(),
            key_prefix=key.reveal()[:API_KEY_PREFIX_LENGTH],
            created_by=created_by.value,
            scope=scope,
            expires_at=expires_at,
        )
    )
    return key


def _new_key(key_format: KeyFormat) -> Secret:
    match key_format:
        case KeyFormat.WRENN:
            return Secret(f"{API_KEY_START}{random_hex(16)}")
        case KeyFormat.E2B:
            return Secret(f"{E2B_KEY_START}{random_hex(20)}")


async def replace_key(
    tx: Transaction,
    *,
    team_id: TeamId,
    created_by: UserId,
    name: str,
    key_format: KeyFormat = KeyFormat.WRENN,
) -> Secret:
    """Create an API key in place of the team's keys of this name, which stop working."""
    await tx.execute(delete(keys).where(keys.c.team_id == team_id.value, keys.c.name == name))
    return await insert_key(tx, team_id=team_id, created_by=created_by, name=name, key_format=key_format)
