"""Bring the schema up to date: forward only, one program at a time."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from wrenn.base.errors import DatabaseUnavailable
from wrenn.control.db.engine import engine_url

_LOCK: Final = 0x7772656E6E
"""Advisory lock of all migrations of one database: "wrenn"."""
_LOCK_TIMEOUT: Final = "60s"


async def migrate(database_url: str) -> None:
    """Apply the migrations that are missing; nothing when there are none. Safe from several programs at once.

    Raises:
        DatabaseUnavailable: PostgreSQL does not answer.
    """
    engine = create_async_engine(engine_url(database_url), poolclass=NullPool, connect_args={"timeout": 10})
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_upgrade)
            await connection.commit()
    except OSError as error:
        raise DatabaseUnavailable(
            "The database does not answer: is DATABASE_URL right?", context={"cause": repr(error)}
        ) from error
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> None:
    connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
    # Held until the commit, so a second program finds the work done.
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    command.upgrade(alembic_config(connection), "head")


def alembic_config(connection: Connection) -> Config:
    """Alembic's settings for a run inside this connection's transaction."""
    config = Config()
    config.set_main_option("script_location", str(files("wrenn.control.db")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
