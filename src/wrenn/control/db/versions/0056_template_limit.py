"""How many templates and snapshots a team may have.

Revision ID: 0056
Revises: 0055
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0056"
down_revision = "0055"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("team_limits", sa.Column("templates", sa.Integer(), nullable=True))
