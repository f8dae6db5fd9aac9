"""Statements on logins to registries that came with the requests of builds. A trigger deletes them when the build ends."""

from __future__ import annotations

from sqlalchemy import insert, select

from wrenn.base.ids import BuildId
from wrenn.control.builds.tables import build_registry_logins as table
from wrenn.control.db import Database, Transaction
from wrenn.control.registries import SealedLogin


async def put(tx: Transaction, build_id: BuildId, login: SealedLogin) -> None:
    """Store the login of a build that is queued in this transaction."""
    await tx.execute(
        insert(table).values(
            build_id=build_id.value,
            registry=login.registry,
            username=login.username,
            sealed_password=login.sealed_password,
        )
    )


async def of_build(database: Database, build_id: BuildId) -> SealedLogin | None:
    """Return the login of a build; None: it has none."""
    query = select(table.c.registry, table.c.username, table.c.sealed_password).where(
        table.c.build_id == build_id.value
    )
    row = (await database.execute(query, repeatable=True)).one_or_none()
    return None if row is None else SealedLogin(row.registry, row.username, bytes(row.sealed_password))
