"""Table of limits of teams; NULL: the installation's default."""

from __future__ import annotations

from sqlalchemy import TIMESTAMP, BigInteger, Column, ForeignKey, Integer, Table, Uuid, func

from wrenn.control.db import metadata

team_limits = Table(
    "team_limits",
    metadata,
    Column("team_id", Uuid, ForeignKey("teams.id", ondelete="CASCADE"), primary_key=True),
    Column("running_sandboxes", Integer),
    Column("total_sandboxes", Integer),
    Column("vcpus", Integer),
    Column("memory_mb", BigInteger),
    Column("templates", Integer),
    Column("snapshot_mb", BigInteger),
    Column("creates_per_second", Integer),
    Column("updated_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
)
