"""Statements on API keys."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, func, insert, update

from wrenn.base.ids import KeyId, TeamId, UserId, random_hex
from wrenn.base.secrets import Secret
from wrenn.control.db import Database, Transaction
from wrenn.control.keys.tables import team_api_keys as keys
from wrenn.protocol.api import API_KEY_PREFIX_LENGTH


async def insert_key(
    tx: Transaction,
    *,
    team_id: TeamId,
    created_by: UserId,
    name: str,
    scope: str = "full",
    expires_at: datetime | None = None,
) -> Secret:
    """A new key of this team. The returned text exists nowhere else."""
    key = Secret(f"wrn_{random_hex(16)}")
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


async def replace_key(tx: Transaction, *, team_id: TeamId, created_by: UserId, name: str) -> Secret:
    """A new key in place of the team's keys of this name, which stop working."""
    await tx.execute(delete(keys).where(keys.c.team_id == team_id.value, keys.c.name == name))
    return await insert_key(tx, team_id=team_id, created_by=created_by, name=name)


async def set_last_used(database: Database, key_ids: Collection[KeyId]) -> None:
    """Note that these keys were used now."""
    ids = [key_id.value for key_id in key_ids]
    await database.execute(update(keys).where(keys.c.id.in_(ids)).values(last_used=func.now()))
