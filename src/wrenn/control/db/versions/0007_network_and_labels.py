"""Network policies, names, labels and makers of sandboxes.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    empty = sa.text("'{}'")
    for column in (
        sa.Column("network", postgresql.JSONB(), server_default=empty, nullable=False),
        sa.Column("network_revision", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("labels", postgresql.JSONB(), server_default=empty, nullable=False),
        sa.Column("created_by", postgresql.JSONB()),
    ):
        op.add_column("sandboxes", column)
