"""Samples of sandboxes; how much of the platform each team has over time; leases on loops.

Revision ID: 0042a
Revises: 0042
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0042a"
down_revision = "0042"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A replica of the version before does not know these tables: what hosts send it, it refuses, and they send it again.
    op.create_table(
        "sandbox_samples",
        sa.Column("sandbox_id", sa.Uuid(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("first_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_ms", sa.BigInteger(), nullable=False),
        sa.Column("samples", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sandbox_id", "tier", "first_ms", name=op.f("pk_sandbox_samples")),
        sa.ForeignKeyConstraint(
            ["sandbox_id"], ["sandboxes.id"], name=op.f("fk_sandbox_samples_sandbox_id_sandboxes")
        ),
    )
    op.create_index("ix_sandbox_samples_last_ms", "sandbox_samples", ["last_ms"])
    op.create_table(
        "team_samples",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("covers_ms", sa.Integer(), nullable=False),
        sa.Column("running_count", sa.Integer(), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.BigInteger(), nullable=False),
        sa.Column("disk_mb", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("team_id", "at", name=op.f("pk_team_samples")),
    )
    op.create_index("ix_team_samples_at", "team_samples", ["at"], postgresql_using="brin")
    op.create_table(
        "team_usage",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("running_count", sa.Integer(), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("team_id", "at", name=op.f("pk_team_usage")),
    )
    op.create_index("ix_team_usage_at", "team_usage", ["at"], postgresql_using="brin")
    op.create_table(
        "team_usage_days",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("cpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("ram_mb_seconds", sa.BigInteger(), nullable=False),
        sa.Column("disk_mb_seconds", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("team_id", "day", name=op.f("pk_team_usage_days")),
    )
    op.create_table(
        "loop_leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_loop_leases")),
    )
