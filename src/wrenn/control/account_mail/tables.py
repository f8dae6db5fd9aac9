"""Tables of tokens that work once, most of which are sent by mail, and of requests for such mails."""

from __future__ import annotations

from sqlalchemy import (
    TIMESTAMP,
    CheckConstraint,
    Column,
    ForeignKey,
    Table,
    Text,
    Uuid,
    func,
)

from wrenn.control.db import metadata

# What a link in a mail shows, or one that the operator makes on the server. One of a purpose and user: a newer one voids the older.
mailed_tokens = Table(
    "mailed_tokens",
    metadata,
    Column("user_id", Uuid, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("purpose", Text, primary_key=True),
    Column("token_hash", Text, nullable=False, unique=True),
    # To which it was sent: it proves nothing of another one. Of a sign-in link the account's.
    Column("email", Text, nullable=False),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", TIMESTAMP(timezone=True), nullable=False, index=True),
    CheckConstraint("purpose IN ('verify', 'reset', 'sign_in')", name="purpose"),
)

# Requests for such a mail, for addresses with and without an account. They are looked up after the answer, which so takes as
# long for the one as for the other.
requested_mails = Table(
    "requested_mails",
    metadata,
    Column("purpose", Text, primary_key=True),
    Column("email", Text, primary_key=True),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("purpose IN ('verify', 'reset')", name="purpose"),
)
