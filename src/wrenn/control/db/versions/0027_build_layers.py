"""The layer cache of builds.

Revision ID: 0027
Revises: 0026
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "build_layers",
        sa.Column("snapshot_id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=False),
        sa.Column("disk_size_mb", sa.Integer(), nullable=False),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("last_used_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("snapshot_id", name=op.f("pk_build_layers")),
        sa.ForeignKeyConstraint(
            ["snapshot_id"],
            ["templates.id"],
            name=op.f("fk_build_layers_snapshot_id_templates"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_build_layers_team_id_teams")),
    )
    op.create_index(
        "uq_build_layers_key",
        "build_layers",
        ["team_id", "key", "vcpus", "memory_mb", "disk_size_mb"],
        unique=True,
    )
    op.create_table(
        "build_bases",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("environment", JSONB(), nullable=False),
        sa.Column("last_used_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("team_id", "key", name=op.f("pk_build_bases")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_build_bases_team_id_teams")),
    )
    op.add_column("builds", sa.Column("layer_id", sa.Uuid(), nullable=True))
    op.add_column("templates", sa.Column("build_key", sa.Text(), nullable=True))
    op.create_index(
        "ix_templates_build_key",
        "templates",
        ["team_id", "build_key"],
        postgresql_where=sa.text("build_key IS NOT NULL"),
    )
