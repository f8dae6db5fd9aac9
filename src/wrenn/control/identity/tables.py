"""Tables of users, teams, memberships, API keys and sessions (platform reference §3.2)."""

from __future__ import annotations

from sqlalchemy import (
    TIMESTAMP,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Table,
    Text,
    Uuid,
    func,
    text,
)

from wrenn.control.db import metadata

users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    # Trimmed and in lower case. Of a deleted account: a name that no mail can reach.
    Column("email", Text, nullable=False, unique=True),
    # When its owner showed that mail to it arrives; null: never.
    Column("email_verified_at", TIMESTAMP(timezone=True)),
    Column("password_hash", Text),
    Column("name", Text, nullable=False, server_default=""),
    Column("is_admin", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    # `disabled`: by an admin of the platform. `deleted`: by the user; the row stays, as keys and the audit log name it.
    Column("status", Text, nullable=False, server_default="active"),
    Column("deleted_at", TIMESTAMP(timezone=True)),
    CheckConstraint("status IN ('active', 'disabled', 'deleted')", name="status"),
)

Index("ix_users_email_prefix", users.c.email, postgresql_ops={"email": "text_pattern_ops"})

teams = Table(
    "teams",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    # Stays taken when the team is deleted.
    Column("slug", Text, nullable=False, unique=True),
    Column("is_byoc", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("deleted_at", TIMESTAMP(timezone=True)),
    # Whether the keys that a member made outlive the membership.
    Column("keeps_keys_of_removed", Boolean, nullable=False, server_default=text("false")),
)

users_teams = Table(
    "users_teams",
    metadata,
    Column("team_id", Uuid, ForeignKey("teams.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("is_default", Boolean, nullable=False, server_default=text("false")),
    Column("role", Text, nullable=False, server_default="member"),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("role IN ('owner', 'admin', 'member')", name="role"),
)

# That a team has at least one owner is held by the lock under which memberships change; that it has no second one, by this.
Index("uq_users_teams_owner", users_teams.c.team_id, unique=True, postgresql_where=text("role = 'owner'"))


# `wrn_` + 32 hex digits, or `e2b_` + 40, of which only the SHA-256 is stored.
team_api_keys = Table(
    "team_api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("team_id", Uuid, ForeignKey("teams.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("key_hash", Text, nullable=False, unique=True),
    Column("key_prefix", Text, nullable=False),
    Column("created_by", Uuid, ForeignKey("users.id"), nullable=False),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("last_used", TIMESTAMP(timezone=True)),
    Column("expires_at", TIMESTAMP(timezone=True)),
    Column("scope", Text, nullable=False, server_default="full"),
    CheckConstraint("scope IN ('full', 'sandboxes', 'read')", name="scope"),
)


# A user's sign-ins, each a family of refresh tokens of which one is valid.
sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    # For which team the next token will be.
    Column("team_id", Uuid, ForeignKey("teams.id", ondelete="CASCADE"), nullable=False),
    # What all refresh tokens of the session have in common, and the one that is not used yet.
    Column("family_hash", Text, nullable=False),
    Column("refresh_hash", Text, nullable=False),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("refreshed_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", TIMESTAMP(timezone=True), nullable=False, index=True),
    Column("ended_at", TIMESTAMP(timezone=True)),
)
