"""Tables of users and teams (platform reference §3.2)."""

from __future__ import annotations

from sqlalchemy import TIMESTAMP, Boolean, Column, ForeignKey, Table, Text, Uuid, func, text

from wrenn.control.db import metadata

users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("email", Text, nullable=False, unique=True),
    Column("password_hash", Text),
    Column("name", Text, nullable=False, server_default=""),
    Column("is_admin", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
)

teams = Table(
    "teams",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("slug", Text, nullable=False, unique=True),
    Column("is_byoc", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("deleted_at", TIMESTAMP(timezone=True)),
)

users_teams = Table(
    "users_teams",
    metadata,
    Column("team_id", Uuid, ForeignKey("teams.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("is_default", Boolean, nullable=False, server_default=text("false")),
    Column("role", Text, nullable=False, server_default="member"),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
)
