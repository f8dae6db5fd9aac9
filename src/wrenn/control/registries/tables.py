"""Table of credentials of container registries."""

from __future__ import annotations

from sqlalchemy import TIMESTAMP, Column, ForeignKey, LargeBinary, Table, Text, Uuid, func
from sqlalchemy.dialects.postgresql import JSONB

from wrenn.control.db import metadata

registry_credentials = Table(
    "registry_credentials",
    metadata,
    Column("team_id", Uuid, ForeignKey("teams.id"), primary_key=True),
    # `HOST` or `HOST:PORT`.
    Column("registry", Text, primary_key=True),
    Column("username", Text, nullable=False),
    # See `sealing.py`.
    Column("sealed_password", LargeBinary, nullable=False),
    # Who set it; NULL: the platform itself.
    Column("set_by", JSONB),
    Column("set_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
)
