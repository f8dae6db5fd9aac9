"""Alembic's part of a migration: applies what is missing inside the transaction that `migrate` opened."""

from __future__ import annotations

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def upgrade(connection: Connection) -> list[str]:
    """Apply the missing migrations and return their revisions, the first one first."""
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
