"""Table of the audit log (platform reference §3.2).

Append-only: a trigger refuses UPDATE, DELETE and TRUNCATE; `wrenn_audit_expire` alone may delete, and only what is days old.
"""

from __future__ import annotations

from sqlalchemy import TIMESTAMP, CheckConstraint, Column, Index, Table, Text, Uuid, func, text
from sqlalchemy.dialects.postgresql import JSONB

from wrenn.control.db import metadata

audit_logs = Table(
    "audit_logs",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
    # No foreign key: the log outlives what it tells of.
    Column("team_id", Uuid, nullable=False),
    Column("actor_type", Text, nullable=False),
    Column("actor_id", Text, nullable=False, server_default=""),
    Column("actor_name", Text, nullable=False, server_default=""),
    Column("resource_type", Text, nullable=False),
    Column("resource_id", Text, nullable=False, server_default=""),
    Column("action", Text, nullable=False),
    Column("scope", Text, nullable=False, server_default="team"),
    Column("status", Text, nullable=False, server_default="success"),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),
    # A trigger writes the time of the clock: `now()` is that of the transaction's begin, whose order says nothing.
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("actor_type IN ('user', 'api_key', 'system')", name="actor_type"),
    CheckConstraint("scope IN ('team', 'admin')", name="scope"),
    CheckConstraint("status IN ('success', 'info', 'warning', 'error')", name="status"),
)

Index("ix_audit_logs_team", audit_logs.c.team_id, audit_logs.c.created_at.desc(), audit_logs.c.id.desc())
Index(
    "ix_audit_logs_team_resource",
    audit_logs.c.team_id,
    audit_logs.c.resource_type,
    audit_logs.c.created_at.desc(),
    audit_logs.c.id.desc(),
)
Index("ix_audit_logs_created_at", audit_logs.c.created_at)
