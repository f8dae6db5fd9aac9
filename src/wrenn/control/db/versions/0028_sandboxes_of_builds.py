"""Which build a sandbox belongs to.

Revision ID: 0028
Revises: 0027
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sandboxes", sa.Column("build_id", sa.Uuid(), nullable=True))
    op.create_index(
        "ix_sandboxes_build_live",
        "sandboxes",
        ["build_id"],
        postgresql_where=sa.text("build_id IS NOT NULL AND status NOT IN ('stopped', 'error')"),
    )
