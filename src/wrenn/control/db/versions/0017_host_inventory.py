"""What hosts say with their heartbeats, and since when they do not answer.

Revision ID: 0017
Revises: 0016
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hosts", sa.Column("silent_since", sa.TIMESTAMP(timezone=True), nullable=True))
    op.add_column("hosts", sa.Column("inventory", sa.Text(), server_default="", nullable=False))
    # The next look at each host corrects this.
    op.execute("UPDATE hosts SET silent_since = last_seen_at WHERE NOT is_reachable")
