"""How many templates and snapshots a team may have.

Revision ID: 0057
Revises: 0056
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0057"
down_revision = "0056"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("team_limits", sa.Column("templates", sa.Integer(), nullable=True))
