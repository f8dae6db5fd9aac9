"""Which frozen layers of disks a snapshot has, and their sizes.

Revision ID: 0035
Revises: 0034
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Of snapshots that are there, or that a replica of the version before takes, they are not known: they count as before.
    op.add_column("templates", sa.Column("layers", JSONB(), nullable=False, server_default=sa.text("'{}'")))
