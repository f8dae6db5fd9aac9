"""Statements on links for downloads. Times are the database's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, Text, Uuid, bindparam, delete, func, insert, literal, select

from wrenn.base.ids import SandboxId, SessionId, TeamId, UserId
from wrenn.control.auth import ApiKey, Credential, Operation, UserToken
from wrenn.control.db import Database, in_s
from wrenn.control.guests.tables import download_links

_c = download_links.c


@dataclass(frozen=True, slots=True)
class LinkedFile:
    """What a link opens, and for whom."""

    credential: Credential
    sandbox_id: SandboxId
    path: str
    guest_user: str
    is_archive: bool


async def insert_link(
    database: Database, team_id: TeamId, token_hash: str, linked: LinkedFile, *, life_s: float, most: int
) -> datetime | None:
    """Insert a link and return when it expires; None: the team has `most` already."""
    count = select(func.count()).where(_c.team_id == team_id.value, _c.expires_at > func.now())
    row = select(
        literal(token_hash, Text),
        literal(team_id.value, Uuid),
        bindparam("credential", _credential_json(linked.credential), type_=_c.credential.type),
        literal(linked.sandbox_id.value, Uuid),
        literal(linked.path, Text),
        literal(linked.guest_user, Text),
        literal(linked.is_archive, Boolean),
        in_s(life_s),
    ).where(count.scalar_subquery() < most)
    made = insert(download_links).from_select([column.name for column in _c], row).returning(_c.expires_at)
    return (await database.execute(made)).scalar_one_or_none()


async def use_link(database: Database, token_hash: str) -> LinkedFile | None:
    """Delete a link, so that it works once, and return what it opens; None: it is not valid."""
    used = (
        delete(download_links).where(_c.token_hash == token_hash, _c.expires_at > func.now()).returning(*_c)
    )
    row = (await database.execute(used)).one_or_none()
    if row is None:
        return None
    return LinkedFile(
        _credential_of(row.credential), SandboxId(row.sandbox_id), row.path, row.guest_user, row.is_archive
    )


async def delete_expired(database: Database) -> None:
    """Delete links that nobody used."""
    await database.execute(delete(download_links).where(_c.expires_at <= func.now()))


def _credential_json(credential: Credential) -> dict[str, str]:
    if isinstance(credential, ApiKey):
        return {"key_hash": credential.key_hash}
    return {
        "user_id": str(credential.user_id.value),
        "team_id": str(credential.team_id.value),
        "session_id": str(credential.session_id.value),
    }


def _credential_of(stored: Mapping[str, Any]) -> Credential:
    if "key_hash" in stored:
        # To read files is what a key needs this for, and it did when the link was made.
        return ApiKey(stored["key_hash"], Operation.WRITE_SANDBOXES)
    user, team, session = (UUID(stored[name]) for name in ("user_id", "team_id", "session_id"))
    return UserToken(UserId(user), TeamId(team), SessionId(session))
