"""Table of hosts (platform reference §3.2, with what the monitor measures)."""

from __future__ import annotations

from sqlalchemy import TIMESTAMP, BigInteger, CheckConstraint, Column, Integer, Table, Text, Uuid, func, text
from sqlalchemy.dialects.postgresql import ARRAY

from wrenn.control.db import metadata

hosts = Table(
    "hosts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("address", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="pending"),
    Column("agent_version", Text, nullable=False, server_default=""),
    Column("vmm", Text, nullable=False, server_default=""),
    Column("accelerator", Text, nullable=False, server_default=""),
    Column("cpu_cores", Integer, nullable=False, server_default=text("0")),
    Column("memory_b", BigInteger, nullable=False, server_default=text("0")),
    Column("memory_available_b", BigInteger, nullable=False, server_default=text("0")),
    Column("disk_b", BigInteger, nullable=False, server_default=text("0")),
    Column("disk_available_b", BigInteger, nullable=False, server_default=text("0")),
    Column("sandbox_disk_b", BigInteger, nullable=False, server_default=text("0")),
    Column("sandbox_limit", Integer, nullable=False, server_default=text("0")),
    Column("templates", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("last_seen_at", TIMESTAMP(timezone=True)),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("status IN ('pending', 'online', 'unreachable')", name="status"),
)
