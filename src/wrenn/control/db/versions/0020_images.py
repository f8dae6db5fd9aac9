"""Images, which hosts fetch from the store.

Revision ID: 0020
Revises: 0017
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0020"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "images",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=True),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("host_id", sa.Uuid(), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("disk_size_mb", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("config", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("manifest_digest", sa.Text(), nullable=True),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint("status IN ('pending', 'ready', 'removing')", name=op.f("ck_images_status")),
        sa.CheckConstraint(
            "status <> 'ready' OR manifest_digest IS NOT NULL", name=op.f("ck_images_manifest")
        ),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_images_team_id_teams")),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name=op.f("fk_images_host_id_hosts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
    )
    op.create_index("ix_images_team_id", "images", ["team_id"])
    op.create_index(
        "ix_images_pending", "images", ["lease_until"], postgresql_where=sa.text("status <> 'ready'")
    )
    op.add_column("templates", sa.Column("image_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f("fk_templates_image_id_images"), "templates", "images", ["image_id"], ["id"])
    op.create_index("ix_templates_image_id", "templates", ["image_id"])
