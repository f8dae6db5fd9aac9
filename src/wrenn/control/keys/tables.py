"""Table of API keys (platform reference §3.2)."""

from __future__ import annotations

from sqlalchemy import TIMESTAMP, CheckConstraint, Column, ForeignKey, Table, Text, Uuid, func

from wrenn.control.db import metadata

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
