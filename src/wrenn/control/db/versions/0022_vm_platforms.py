"""What saved virtual machines need to be restored, and which of them a host can restore.

Revision ID: 0022
Revises: 0020
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0022"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("hosts", "sandboxes", "templates"):
        op.add_column(table, sa.Column("platform", JSONB(), server_default="{}", nullable=False))
