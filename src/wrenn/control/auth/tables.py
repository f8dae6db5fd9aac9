"""Table of sessions: a user's sign-ins, each a family of refresh tokens of which one is valid."""

from __future__ import annotations

from sqlalchemy import TIMESTAMP, Column, ForeignKey, Table, Text, Uuid, func

from wrenn.control.db import metadata

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
