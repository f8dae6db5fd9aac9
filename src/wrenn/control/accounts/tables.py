"""Tables of sign-in providers, invitations, tokens that are sent by mail, and attempts that are counted."""

from __future__ import annotations

from sqlalchemy import (
    TIMESTAMP,
    CheckConstraint,
    Column,
    ForeignKey,
    Integer,
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

_PURPOSES = "purpose IN ('verify', 'reset')"

# What a link in a mail shows. One of a purpose and user: a newer one voids the older.
mailed_tokens = Table(
    "mailed_tokens",
    metadata,
    Column("user_id", Uuid, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("purpose", Text, primary_key=True),
    Column("token_hash", Text, nullable=False, unique=True),
    # To which it was sent: it proves nothing of another one.
    Column("email", Text, nullable=False),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", TIMESTAMP(timezone=True), nullable=False, index=True),
    CheckConstraint(_PURPOSES, name="purpose"),
)

# Requests for such a mail, for addresses with and without an account. They are looked up after the answer, which so takes as
# long for the one as for the other.
requested_mails = Table(
    "requested_mails",
    metadata,
    Column("purpose", Text, primary_key=True),
    Column("email", Text, primary_key=True),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint(_PURPOSES, name="purpose"),
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
