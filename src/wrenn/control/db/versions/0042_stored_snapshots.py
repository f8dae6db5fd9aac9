"""Snapshots in the store, and the hosts that fetched them from there.

Revision ID: 0042
Revises: 0040
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0042"
down_revision = "0040"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_constraint(op.f("ck_images_kind"), "images", type_="check")
    op.create_check_constraint("kind", "images", "kind IN ('template', 'sandbox', 'snapshot')")
    op.create_index(
        "ix_images_snapshots",
        "images",
        ["id"],
        postgresql_where=sa.text("kind = 'snapshot' AND status = 'ready'"),
    )
    op.add_column("templates", sa.Column("stored_image_id", sa.Uuid(), nullable=True))
    op.create_index(
        "ix_templates_stored_image_id",
        "templates",
        ["stored_image_id"],
        postgresql_where=sa.text("stored_image_id IS NOT NULL"),
    )
    op.create_table(
        "snapshot_copies",
        # A replica of the version before deletes the row of a snapshot without a look at its copies: their files are then without
        # a row, and are removed as such.
        sa.Column(
            "snapshot_id", sa.Uuid(), sa.ForeignKey("templates.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("host_id", sa.Uuid(), sa.ForeignKey("hosts.id"), nullable=False),
        sa.Column("used_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("snapshot_id", "host_id"),
    )
    op.create_index("ix_snapshot_copies_host_id", "snapshot_copies", ["host_id"])
