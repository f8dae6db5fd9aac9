"""Table of the identities that users have at sign-in providers."""

from __future__ import annotations

from sqlalchemy import (
    TIMESTAMP,
    Column,
    ForeignKey,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
)

from wrenn.control.db import metadata

oauth_providers = Table(
    "oauth_providers",
    metadata,
    Column("provider", Text, primary_key=True),
    # Who it is at the provider; an e-mail address may change hands, this does not.
    Column("provider_id", Text, primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("email", Text, nullable=False),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint("user_id", "provider", name="uq_oauth_providers_user_id"),
)
