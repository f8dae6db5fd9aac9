"""Alembic's entry: it runs inside the transaction that `migrate` opened, so all migrations apply or none."""

from __future__ import annotations

from alembic import context

from wrenn.control.db.metadata import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
