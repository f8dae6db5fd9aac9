"""Tags that a sandbox asks of its host.

Revision ID: 0013
Revises: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0013"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "sandboxes",
        sa.Column("host_tags", ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    )
