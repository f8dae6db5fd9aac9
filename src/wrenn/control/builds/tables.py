"""Tables of builds, of what their steps wrote, and of the layer cache."""

from __future__ import annotations

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from wrenn.control.db import metadata
from wrenn.control.templates import templates

builds = Table(
    "builds",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("team_id", Uuid, ForeignKey("teams.id"), nullable=False),
    # The template's name and the tags that it gets at the end.
    Column("name", Text, nullable=False),
    Column("tags", ARRAY(Text), nullable=False),
    # The request, which was checked: the recipe's lines or a Dockerfile, and what else it said.
    Column("request", JSONB, nullable=False),
    # In the store: the files that the recipe copies; NULL: there are none.
    Column("archive_key", Text),
    Column("vcpus", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("disk_size_mb", Integer, nullable=False),
    Column("status", Text, nullable=False, server_default="pending"),
    Column("is_cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("current_step", Integer, nullable=False, server_default=text("0")),
    Column("total_steps", Integer, nullable=False),
    # Why it failed: a code and a message.
    Column("error_code", Text, nullable=False, server_default=""),
    Column("error", Text, nullable=False, server_default=""),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    # The sandbox of the present attempt.
    Column("sandbox_id", Uuid),
    Column("template_id", Uuid),
    # The layer that the sandbox of the present attempt was made from. It is not removed while the build runs.
    Column("layer_id", Uuid),
    Column("created_by", JSONB),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("started_at", TIMESTAMP(timezone=True)),
    Column("completed_at", TIMESTAMP(timezone=True)),
    # Of the worker that runs it.
    Column("lease_owner", Text),
    Column("lease_until", TIMESTAMP(timezone=True)),
    CheckConstraint("status IN ('pending', 'running', 'success', 'failed', 'cancelled')", name="status"),
    CheckConstraint(
        "(status IN ('success', 'failed', 'cancelled')) = (completed_at IS NOT NULL)", name="completed_at"
    ),
)

# Logins to registries that came with the requests of builds. A trigger deletes them when the build ends, whichever release ends it.
build_registry_logins = Table(
    "build_registry_logins",
    metadata,
    Column("build_id", Uuid, ForeignKey("builds.id", ondelete="CASCADE"), primary_key=True),
    Column("registry", Text, nullable=False),
    Column("username", Text, nullable=False),
    # See `registries/sealing.py`.
    Column("sealed_password", LargeBinary, nullable=False),
)

Index("ix_builds_team_id_created_at", builds.c.team_id, builds.c.created_at.desc())
Index(
    "ix_builds_unfinished",
    builds.c.created_at,
    postgresql_where=text("status IN ('pending', 'running')"),
)

Index("ix_builds_archive_key", builds.c.archive_key, postgresql_where=text("archive_key IS NOT NULL"))

# States of the sandboxes of builds after some steps, as hidden snapshots, by what led to them (`recipe/cache_key.py`).
build_layers = Table(
    "build_layers",
    metadata,
    Column("snapshot_id", Uuid, ForeignKey(templates.c.id, ondelete="CASCADE"), primary_key=True),
    Column("team_id", Uuid, ForeignKey("teams.id"), nullable=False),
    Column("key", Text, nullable=False),
    # The size of the sandboxes that can be made from it.
    Column("vcpus", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("disk_size_mb", Integer, nullable=False),
    # How many layers its sandbox was made from, one after the other.
    Column("depth", Integer, nullable=False),
    # The earliest of these layers was made then.
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("last_used_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
)

Index(
    "uq_build_layers_key",
    build_layers.c.team_id,
    build_layers.c.key,
    build_layers.c.vcpus,
    build_layers.c.memory_mb,
    build_layers.c.disk_size_mb,
    unique=True,
)

# The variables that programs have in sandboxes of a base: keys of steps contain them, and no sandbox need be started for them.
build_bases = Table(
    "build_bases",
    metadata,
    Column("team_id", Uuid, ForeignKey("teams.id"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("environment", JSONB, nullable=False),
    Column("last_used_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
)

# What the steps of the last attempt wrote, in order.
build_logs = Table(
    "build_logs",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("build_id", Uuid, ForeignKey("builds.id", ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("step", Integer, nullable=False),
    # `step` (a step begins: its phase and command), `stdout`, `stderr`, `end` (of a step), `note`.
    Column("kind", Text, nullable=False),
    Column("data", JSONB, nullable=False),
    Column("at", TIMESTAMP(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    CheckConstraint("kind IN ('step', 'stdout', 'stderr', 'end', 'note')", name="kind"),
)

Index("ix_build_logs_build_id_id", build_logs.c.build_id, build_logs.c.id)
