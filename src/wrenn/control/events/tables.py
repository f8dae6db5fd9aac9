"""Tables of events. Rows are written by triggers of the tables that they are about (migration 0004), never by a feature."""

from __future__ import annotations

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from wrenn.control.db import metadata

events = Table(
    "events",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    # Of the transaction that wrote it. Position is (txid, id): ids alone are not in the order of commits.
    Column(
        "txid",
        BigInteger,
        nullable=False,
        server_default=text("((pg_current_xact_id())::text)::bigint"),
    ),
    Column("team_id", Uuid, nullable=False),
    Column("scope", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("resource_id", Text, nullable=False),
    Column("data", JSONB, nullable=False),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
)
Index("ix_events_position", events.c.txid, events.c.id)
Index("ix_events_created_at", events.c.created_at)

# The last position that was forgotten, in one row: who was there last has missed something.
events_pruned = Table(
    "events_pruned",
    metadata,
    Column("one_row", Boolean, primary_key=True, server_default=text("true")),
    Column("txid", BigInteger, nullable=False),
    Column("id", BigInteger, nullable=False),
    CheckConstraint("one_row", name="one_row"),
)
