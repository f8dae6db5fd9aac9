"""When the oldest of the content of a template was made, if a build made it.

Revision ID: 0034
Revises: 0031
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Of templates that are there, or that a replica of the version before makes, it is not known: no build takes them.
    op.add_column("templates", sa.Column("built_at", sa.TIMESTAMP(timezone=True), nullable=True))
