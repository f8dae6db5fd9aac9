"""Table of snapshots: those that are templates, and those that a fork keeps while its copies start."""

from __future__ import annotations

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from wrenn.control.db import metadata
from wrenn.control.images import images

templates = Table(
    "templates",
    metadata,
    # Of the snapshot on its host.
    Column("id", Uuid, primary_key=True),
    Column("team_id", Uuid, ForeignKey("teams.id"), nullable=False),
    Column("host_id", Uuid, ForeignKey("hosts.id"), nullable=False),
    # NULL: hidden, a fork's.
    Column("name", Text),
    Column("type", Text, nullable=False, server_default="snapshot"),
    # The image that the first of its ancestors was started from.
    Column("image", Text, nullable=False),
    # That image, if it is in the store; NULL: one that hosts built themselves.
    Column("image_id", Uuid, ForeignKey(images.c.id)),
    Column("vcpus", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("disk_size_mb", Integer, nullable=False, server_default=text("5120")),
    Column("size_bytes", BigInteger, nullable=False, server_default=text("0")),
    # `VmPlatform` as JSON: what it needs to be restored. Empty: not known.
    Column("platform", JSONB, nullable=False, server_default=text("'{}'")),
    # What it was taken of.
    Column("sandbox_id", Uuid, nullable=False),
    Column("status", Text, nullable=False, server_default="pending"),
    # Of a pending one: who makes it. When the time is over, it is removed.
    Column("lease_owner", Text),
    Column("lease_until", TIMESTAMP(timezone=True)),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("type IN ('base', 'snapshot')", name="type"),
    CheckConstraint("status IN ('pending', 'ready', 'removing')", name="status"),
)

# A name may be that of one ready template and of the one that will take its place.
Index(
    "uq_templates_name",
    templates.c.team_id,
    templates.c.name,
    templates.c.status,
    unique=True,
    postgresql_where=text("name IS NOT NULL AND status <> 'removing'"),
)
Index("ix_templates_host_id", templates.c.host_id)
Index("ix_templates_image_id", templates.c.image_id)
