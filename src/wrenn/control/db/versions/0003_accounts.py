"""Accounts: state of users, sessions, sign-in providers, attempts; scope and expiry of keys; one owner a team.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("users", sa.Column("status", sa.Text(), server_default="active", nullable=False))
    op.add_column("users", sa.Column("deleted_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.create_check_constraint(
        op.f("ck_users_status"), "users", "status IN ('active', 'disabled', 'deleted')"
    )
    op.execute(
        "UPDATE users SET email = lower(email) WHERE email <> lower(email)"
        " AND NOT EXISTS (SELECT FROM users AS others WHERE others.email = lower(users.email))"
    )
    op.create_index(
        "ix_users_email_prefix",
        "users",
        ["email"],
        unique=False,
        postgresql_ops={"email": "text_pattern_ops"},
    )

    # Where there are several owners, the first stays; a team without one gets its first member.
    op.execute(
        "UPDATE users_teams SET role = 'admin' FROM (SELECT team_id, user_id, row_number() OVER"
        " (PARTITION BY team_id ORDER BY created_at, user_id) AS place FROM users_teams WHERE role = 'owner')"
        " AS owners WHERE owners.place > 1 AND users_teams.team_id = owners.team_id"
        " AND users_teams.user_id = owners.user_id"
    )
    op.execute(
        "UPDATE users_teams SET role = 'owner' FROM (SELECT DISTINCT ON (team_id) team_id, user_id FROM users_teams"
        " ORDER BY team_id, (role = 'owner') DESC, (role = 'admin') DESC, created_at, user_id) AS heads"
        " WHERE users_teams.team_id = heads.team_id AND users_teams.user_id = heads.user_id"
        " AND users_teams.role <> 'owner'"
    )
    op.create_check_constraint(
        op.f("ck_users_teams_role"), "users_teams", "role IN ('owner', 'admin', 'member')"
    )
    op.create_index(
        "uq_users_teams_owner",
        "users_teams",
        ["team_id"],
        unique=True,
        postgresql_where=sa.text("role = 'owner'"),
    )
    op.create_index("ix_users_teams_user_id", "users_teams", ["user_id"], unique=False)

    op.add_column("team_api_keys", sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.add_column("team_api_keys", sa.Column("scope", sa.Text(), server_default="full", nullable=False))
    op.create_check_constraint(
        op.f("ck_team_api_keys_scope"), "team_api_keys", "scope IN ('full', 'sandboxes', 'read')"
    )

    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("family_hash", sa.Text(), nullable=False),
        sa.Column("refresh_hash", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("refreshed_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["team_id"], ["teams.id"], name=op.f("fk_sessions_team_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_sessions_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_user_id"), "sessions", ["user_id"], unique=False)
    op.create_index(op.f("ix_sessions_expires_at"), "sessions", ["expires_at"], unique=False)

    op.create_table(
        "oauth_providers",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("provider_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_oauth_providers_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("provider", "provider_id", name=op.f("pk_oauth_providers")),
        sa.UniqueConstraint("user_id", "provider", name="uq_oauth_providers_user_id"),
    )

    op.create_table(
        "attempts",
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("blocked_until", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("subject", name=op.f("pk_attempts")),
    )
    op.create_index(op.f("ix_attempts_last_at"), "attempts", ["last_at"], unique=False)
