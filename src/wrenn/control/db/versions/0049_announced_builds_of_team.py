"""The announced builds of a team by age, of which the oldest are deleted.

Revision ID: 0049
Revises: 0048
"""

from __future__ import annotations

from alembic import op

revision = "0049"
down_revision = "0048"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_announced_builds_team", "announced_builds", ["team_id", "created_at"])
