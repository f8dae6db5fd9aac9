"""Bring the schema up to date: forward only, one program at a time."""

from __future__ import annotations

import asyncio
import time
from importlib.resources import files
from typing import Final

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool

from wrenn.base.errors import DatabaseUnavailable, WrennError
from wrenn.control.db.connect import create_engine
from wrenn.control.db.engine import Database, give_up_connections, is_gone

_LOCK: Final = 0x7772656E6E
"""Advisory lock of all migrations of one database: "wrenn"."""
_LOCK_TIMEOUT: Final = "3s"
"""Who waits for a lock on a table holds up all that come after: statements of a former release that still runs."""
_TRY_FOR_S: Final = 60.0
_TRY_AGAIN_S: Final = 1.0
_ANSWER_TIMEOUT_S: Final = 60.0
"""A change of a large table may take long, and is silent meanwhile; beyond this the server, or the machine below it, has stopped."""
# A lock was not to be had in time, or the server chose this transaction to end a deadlock.
_LOCK_STATES: Final = ("55P03", "40P01")


class NewerSchema(WrennError):
    """A later release has migrated the database. Migrations are forward only, so this release cannot start on it."""

    code = "newer_schema"
    http_status = 500


async def migrate(database_url: str) -> list[str]:
    """Apply the migrations that are missing, all or none of them, and return which those were.

    Safe from several programs at once.

    Raises:
        DatabaseUnavailable: PostgreSQL does not answer, or others hold locks for too long. NewerSchema.
    """
    engine = create_engine(database_url, poolclass=NullPool, answer_timeout_s=_ANSWER_TIMEOUT_S)
    event.listen(engine.sync_engine, "handle_error", give_up_connections)
    try:
        deadline = time.monotonic() + _TRY_FOR_S
        while (applied := await _tried(engine)) is None:
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(
                    "The schema cannot be changed: others hold locks on the tables. Try again."
                )
            await asyncio.sleep(_TRY_AGAIN_S)
        return applied
    except OSError as error:
        raise DatabaseUnavailable(
            "The database does not answer: is DATABASE_URL right?", context={"cause": repr(error)}
        ) from error
    finally:
        await engine.dispose()


async def is_migrated(database: Database) -> bool:
    """Return whether all migrations of this release were applied. Changes nothing.

    Raises:
        DatabaseUnavailable: PostgreSQL does not answer.
    """
    found = await database.transaction(lambda tx: tx.run_sync(_revision))
    return found is not None and found >= newest_revision()


async def _tried(engine: AsyncEngine) -> list[str] | None:
    """What was applied; None: a lock was not to be had, and nothing was changed. Raises DatabaseUnavailable."""
    try:
        async with engine.connect() as connection:
            applied = await connection.run_sync(_upgrade)
            await connection.commit()
            return applied
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) in _LOCK_STATES:
            return None
        if not is_gone(error):
            raise
        raise DatabaseUnavailable(
            "The database ended the connection while its schema was looked at. Try again.",
            context={"cause": repr(error)},
        ) from error


def _upgrade(connection: Connection) -> list[str]:
    connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
    # Held until the commit, so a second program finds the work done.
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    found, newest = _revision(connection), newest_revision()
    if found == newest:
        return []
    if found is not None and found > newest:
        raise NewerSchema(
            f"A later release has migrated the database (to {found}; this one knows {newest}). Start that release, or restore "
            "a backup from before the upgrade."
        )
    # Most starts find the schema as it is; to import the tool costs as much as all else that they do here.
    from wrenn.control.db.upgrade import upgrade  # noqa: PLC0415

    return upgrade(connection)


def _revision(connection: Connection) -> str | None:
    """The last migration that was applied; None: none was."""
    if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar_one() is None:
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def newest_revision() -> str:
    """The revision of the last migration: the number that its file begins with."""
    folder = files("wrenn.control.db") / "versions"
    return max(path.name.partition("_")[0] for path in folder.iterdir() if path.name[:1].isdigit())
