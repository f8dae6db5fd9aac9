"""Pause, time limits, snapshots.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sandboxes", sa.Column("image", sa.Text(), server_default="", nullable=False))
    op.add_column("sandboxes", sa.Column("snapshot_id", sa.Uuid(), nullable=True))
    op.add_column("sandboxes", sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.add_column("sandboxes", sa.Column("on_expiry", sa.Text(), server_default="pause", nullable=False))
    op.add_column(
        "sandboxes", sa.Column("auto_resume", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("sandboxes", sa.Column("due_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.add_column("sandboxes", sa.Column("desired_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.add_column(
        "sandboxes", sa.Column("idle_ms", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    for name, condition in (
        (
            "ck_sandboxes_status",
            "status IN ('pending', 'starting', 'running', 'paused', 'missing', 'stopped', 'error')",
        ),
        ("ck_sandboxes_desired", "desired IN ('running', 'paused', 'stopped')"),
    ):
        op.drop_constraint(op.f(name), "sandboxes", type_="check")
        op.create_check_constraint(op.f(name), "sandboxes", condition)
    op.create_check_constraint(op.f("ck_sandboxes_on_expiry"), "sandboxes", "on_expiry IN ('pause', 'kill')")
    # Those that were made before have their time-out from now on.
    op.execute(
        "UPDATE sandboxes SET due_at = now() + make_interval(secs => timeout_sec)"
        " WHERE timeout_sec > 0 AND status IN ('running', 'missing')"
    )
    op.create_index(
        "ix_sandboxes_work",
        "sandboxes",
        ["next_attempt_at"],
        unique=False,
        postgresql_where=sa.text(
            "status IN ('pending', 'starting') OR (status IN ('running', 'paused') AND desired <> status)"
            " OR (status = 'missing' AND desired = 'stopped')"
        ),
    )
    op.drop_index("ix_sandboxes_due", "sandboxes")
    op.create_index(
        "ix_sandboxes_due_at",
        "sandboxes",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL AND status NOT IN ('stopped', 'error')"),
    )
    op.create_index(
        "ix_sandboxes_snapshot_live",
        "sandboxes",
        ["snapshot_id"],
        unique=False,
        postgresql_where=sa.text("snapshot_id IS NOT NULL AND status NOT IN ('stopped', 'error')"),
    )
    op.create_table(
        "templates",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("host_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), server_default="snapshot", nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("sandbox_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint("type IN ('base', 'snapshot')", name=op.f("ck_templates_type")),
        sa.CheckConstraint("status IN ('pending', 'ready', 'removing')", name=op.f("ck_templates_status")),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name=op.f("fk_templates_host_id")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_templates_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_templates")),
    )
    op.create_index(
        "uq_templates_name",
        "templates",
        ["team_id", "name", "status"],
        unique=True,
        postgresql_where=sa.text("name IS NOT NULL AND status <> 'removing'"),
    )
    op.create_index("ix_templates_host_id", "templates", ["host_id"], unique=False)
