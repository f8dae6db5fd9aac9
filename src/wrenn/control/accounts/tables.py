"""Tables of sign-in providers, invitations, and attempts that are counted."""

from __future__ import annotations

from sqlalchemy import TIMESTAMP, Column, ForeignKey, Integer, Table, Text, UniqueConstraint, Uuid, func

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

team_invitations = Table(
    "team_invitations",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("team_id", Uuid, ForeignKey("teams.id", ondelete="CASCADE"), nullable=False),
    # As in `users`. Inviting an address again replaces its invitation.
    Column("email", Text, nullable=False),
    Column("token_hash", Text, nullable=False, unique=True),
    Column("invited_by", Uuid, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", TIMESTAMP(timezone=True), nullable=False),
    UniqueConstraint("team_id", "email", name="uq_team_invitations_team_id"),
)

attempts = Table(
    "attempts",
    metadata,
    # Who or from where: a kind and a digest or address.
    Column("subject", Text, primary_key=True),
    Column("count", Integer, nullable=False),
    Column("last_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now(), index=True),
    Column("blocked_until", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
)
