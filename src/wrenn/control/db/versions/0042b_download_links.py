"""Links with which a browser downloads one file of a sandbox, once.

Revision ID: 0042b
Revises: 0042a
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0042b"
down_revision = "0042a"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "download_links",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("credential", postgresql.JSONB(), nullable=False),
        sa.Column("sandbox_id", sa.Uuid(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("guest_user", sa.Text(), nullable=False),
        sa.Column("is_archive", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["team_id"], ["teams.id"], name=op.f("fk_download_links_team_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_download_links")),
    )
    op.create_index("ix_download_links_team_id", "download_links", ["team_id"])
    op.create_index("ix_download_links_expires_at", "download_links", ["expires_at"])
