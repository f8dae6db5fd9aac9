"""Bring the schema up to date: forward only, one program at a time."""

from __future__ import annotations

import asyncio
import time
from importlib.resources import files
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from wrenn.base.errors import DatabaseUnavailable
from wrenn.control.db.engine import engine_url

_LOCK: Final = 0x7772656E6E
"""Advisory lock of all migrations of one database: "wrenn"."""
_LOCK_TIMEOUT: Final = "3s"
"""Who waits for a lock on a table holds up all that come after: statements of a former release that still runs."""
_TRY_FOR_S: Final = 60.0
_TRY_AGAIN_S: Final = 1.0
_LOCK_NOT_AVAILABLE: Final = "55P03"


async def migrate(database_url: str) -> list[str]:
    """Apply the migrations that are missing, all or none of them, and return which those were.

    Safe from several programs at once.

    Raises:
        DatabaseUnavailable: PostgreSQL does not answer, or others hold locks for too long.
    """
    engine = create_async_engine(engine_url(database_url), poolclass=NullPool, connect_args={"timeout": 10})
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


async def _tried(engine: AsyncEngine) -> list[str] | None:
    """What was applied; None: a lock was not to be had, and nothing was changed."""
    try:
        async with engine.connect() as connection:
            applied = await connection.run_sync(_upgrade)
            await connection.commit()
            return applied
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        return None


def _upgrade(connection: Connection) -> list[str]:
    connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
    # Held until the commit, so a second program finds the work done.
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    config = alembic_config(connection)
    before = MigrationContext.configure(connection).get_current_revision()
    scripts = ScriptDirectory.from_config(config)
    missing = [script.revision for script in scripts.iterate_revisions("head", before or "base")]
    command.upgrade(config, "head")
    return missing[::-1]


def alembic_config(connection: Connection) -> Config:
    """Alembic's settings for a run inside this connection's transaction."""
    config = Config()
    config.set_main_option("script_location", str(files("wrenn.control.db")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
