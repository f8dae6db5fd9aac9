"""A start looks for the newest migration by its file's name, without the tool that applies migrations."""

from __future__ import annotations

from unittest.mock import sentinel

from alembic.script import ScriptDirectory

from wrenn.control.db.migrate import newest_revision
from wrenn.control.db.upgrade import alembic_config


def test_the_newest_file_is_the_last_migration() -> None:
    scripts = ScriptDirectory.from_config(alembic_config(sentinel.no_connection))
    assert scripts.get_current_head() == newest_revision()
