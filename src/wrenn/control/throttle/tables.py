"""Table of counted attempts."""

from __future__ import annotations

from sqlalchemy import (
    TIMESTAMP,
    Column,
    Integer,
    Table,
    Text,
    func,
)

from wrenn.control.db import metadata

attempts = Table(
    "attempts",
    metadata,
    # Who or from where: a kind and a digest or address.
    Column("subject", Text, primary_key=True),
    Column("count", Integer, nullable=False),
    Column("last_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now(), index=True),
    Column("blocked_until", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
)
