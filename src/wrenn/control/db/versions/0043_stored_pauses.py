"""When the state was saved that the store has of a sandbox; uploads of paused sandboxes under way; recovery on another host.

Revision ID: 0043
Revises: 0042c
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0043"
down_revision = "0042c"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A replica of the version before writes none of these: what it pauses is not uploaded until it is paused again.
    op.add_column("sandboxes", sa.Column("paused_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.add_column("sandboxes", sa.Column("stored_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.add_column("sandboxes", sa.Column("recovery_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.create_index(
        "ix_sandboxes_to_store",
        "sandboxes",
        ["paused_at"],
        postgresql_where=sa.text(
            "status = 'paused' AND desired = 'paused' AND move_host_id IS NULL AND stored_at IS DISTINCT FROM paused_at"
        ),
    )
    op.create_table(
        "sandbox_uploads",
        sa.Column("id", sa.Uuid(), sa.ForeignKey("sandboxes.id", ondelete="CASCADE"), nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
