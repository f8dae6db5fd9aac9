"""Builds of templates, and their logs.

Revision ID: 0025
Revises: 0023
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0025"
down_revision = "0023"
branch_labels = None
depends_on = None

_BUILD_EVENT = """
CREATE FUNCTION wrenn_build_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO events (team_id, scope, type, resource_id, data)
    VALUES (
        NEW.team_id, 'team', 'build.' || CASE NEW.status WHEN 'pending' THEN 'created' ELSE NEW.status END,
        wrenn_wire_id('bld-', NEW.id), jsonb_build_object('name', NEW.name, 'status', NEW.status)
    );
    RETURN NULL;
END
$$
"""
_TRIGGERS = (
    "build_created AFTER INSERT ON builds FOR EACH ROW EXECUTE FUNCTION wrenn_build_event()",
    "build_changed AFTER UPDATE OF status ON builds FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status)"
    " EXECUTE FUNCTION wrenn_build_event()",
)


def upgrade() -> None:
    op.create_table(
        "builds",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tags", ARRAY(sa.Text()), nullable=False),
        sa.Column("request", JSONB(), nullable=False),
        sa.Column("archive_key", sa.Text(), nullable=True),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=False),
        sa.Column("disk_size_mb", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("is_cancel_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("current_step", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("total_steps", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.Text(), server_default="", nullable=False),
        sa.Column("error", sa.Text(), server_default="", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("sandbox_id", sa.Uuid(), nullable=True),
        sa.Column("template_id", sa.Uuid(), nullable=True),
        sa.Column("created_by", JSONB(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("completed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('pending', 'running', 'success', 'failed', 'cancelled')",
            name=op.f("ck_builds_status"),
        ),
        sa.CheckConstraint(
            "(status IN ('success', 'failed', 'cancelled')) = (completed_at IS NOT NULL)",
            name=op.f("ck_builds_completed_at"),
        ),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_builds_team_id_teams")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_builds")),
    )
    op.create_index("ix_builds_team_id_created_at", "builds", ["team_id", sa.text("created_at DESC")])
    op.create_index(
        "ix_builds_unfinished",
        "builds",
        ["created_at"],
        postgresql_where=sa.text("status IN ('pending', 'running')"),
    )
    op.create_index(
        "ix_builds_archive_key",
        "builds",
        ["archive_key"],
        postgresql_where=sa.text("archive_key IS NOT NULL"),
    )
    op.create_table(
        "build_logs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("build_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", JSONB(), nullable=False),
        sa.Column(
            "at", sa.TIMESTAMP(timezone=True), server_default=sa.func.clock_timestamp(), nullable=False
        ),
        sa.CheckConstraint(
            "kind IN ('step', 'stdout', 'stderr', 'end', 'note')", name=op.f("ck_build_logs_kind")
        ),
        sa.ForeignKeyConstraint(
            ["build_id"], ["builds.id"], name=op.f("fk_build_logs_build_id_builds"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_build_logs")),
    )
    op.create_index("ix_build_logs_build_id_id", "build_logs", ["build_id", "id"])
    op.execute(_BUILD_EVENT)
    for trigger in _TRIGGERS:
        op.execute(f"CREATE TRIGGER {trigger}")
