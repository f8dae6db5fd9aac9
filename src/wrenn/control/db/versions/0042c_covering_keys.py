"""What a team had over time is read from the index alone.

The rows of one team lie far apart, between those of all others of the same time: with the values in the index, a month of a team is
some dozens of pages instead of thousands.

Revision ID: 0042c
Revises: 0042b
"""

from __future__ import annotations

from alembic import op

revision = "0042c"
down_revision = "0042b"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("team_samples", "team_usage"):
        op.execute(
            f"ALTER TABLE {table} DROP CONSTRAINT pk_{table},"
            f" ADD CONSTRAINT pk_{table} PRIMARY KEY (team_id, at) INCLUDE (running_count, vcpus, memory_mb)"
        )
        # Rows are only added: without a vacuum now and then the index alone does not do, and old rows are not found by time.
        op.execute(f"ALTER TABLE {table} SET (autovacuum_vacuum_insert_scale_factor = 0.01)")
        op.execute(f"ALTER INDEX ix_{table}_at SET (autosummarize = on)")
