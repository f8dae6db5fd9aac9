"""The generation of a sandbox, which tells its copies on several hosts apart.

Revision ID: 0015
Revises: 0014
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "sandboxes", sa.Column("generation", sa.BigInteger(), server_default=sa.text("1"), nullable=False)
    )
