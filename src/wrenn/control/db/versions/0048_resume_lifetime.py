"""The lifetime that begins with each resume of a sandbox.

Revision ID: 0048
Revises: 0047
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0048"
down_revision = "0047"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A replica of the version before neither writes nor reads it: a sandbox that it resumes continues without a new lifetime.
    op.add_column(
        "sandboxes",
        sa.Column("resume_lifetime_sec", sa.Integer(), nullable=False, server_default=sa.text("0")),
    )
