"""Owners of images whose garbage in the store is to be collected.

Revision ID: 0045
Revises: 0043b
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0045"
down_revision = "0043b"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A replica of the version before keeps them in memory: what it removes is collected by itself, or with all owners every six hours.
    op.create_table(
        "image_collections",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=True),
        sa.Column("requested_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("attempt_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("blocked_since", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("owner"),
    )
