"""Pauses of sandboxes that keep only the disk.

Revision ID: 0050
Revises: 0049
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0050"
down_revision = "0049"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A replica of the version before neither writes nor reads them: pauses and resumes that it carries out keep the memory.
    for name in ("keep_memory_on_pause", "keeps_memory"):
        op.add_column(
            "sandboxes", sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.text("true"))
        )
