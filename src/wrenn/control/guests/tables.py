"""Table of links for downloads."""

from __future__ import annotations

from sqlalchemy import TIMESTAMP, Boolean, Column, ForeignKey, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB

from wrenn.control.db import metadata

download_links = Table(
    "download_links",
    metadata,
    # SHA-256 of the token in the link.
    Column("token_hash", Text, primary_key=True),
    Column("team_id", Uuid, ForeignKey("teams.id", ondelete="CASCADE"), nullable=False, index=True),
    # Who made it, as `download_store` writes it: the download is refused once that one has lost access.
    Column("credential", JSONB, nullable=False),
    Column("sandbox_id", Uuid, nullable=False),
    Column("path", Text, nullable=False),
    # As whom the guest reads it.
    Column("guest_user", Text, nullable=False),
    Column("is_archive", Boolean, nullable=False),
    Column("expires_at", TIMESTAMP(timezone=True), nullable=False, index=True),
)
