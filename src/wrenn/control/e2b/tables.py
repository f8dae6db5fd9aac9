"""Tables of the template builder: what e2b's clients say in several requests, and the platform's own API in one."""

from __future__ import annotations

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
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
from sqlalchemy.dialects.postgresql import ARRAY

from wrenn.control.db import metadata

# Builds that were announced, with what is known before their steps come. Once they have, `builds` has a row of the same id.
announced_builds = Table(
    "announced_builds",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("team_id", Uuid, ForeignKey("teams.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("tags", ARRAY(Text), nullable=False),
    Column("vcpus", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("disk_size_mb", Integer, nullable=False),
    # For each line of the recipe the step that it is of; NULL: the steps have not come.
    Column("step_numbers", ARRAY(Integer)),
    # The commands of RUN steps by step, for messages; others are empty.
    Column("commands", ARRAY(Text)),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
)

Index("ix_announced_builds_created_at", announced_builds.c.created_at)
Index("ix_announced_builds_team", announced_builds.c.team_id, announced_builds.c.created_at)
Index(
    "ix_announced_builds_waiting",
    announced_builds.c.team_id,
    postgresql_where=text("step_numbers IS NULL"),
)

# Archives in the store that COPY steps take files from, by the hash that clients compute.
builder_files = Table(
    "builder_files",
    metadata,
    Column("team_id", Uuid, ForeignKey("teams.id"), primary_key=True),
    Column("hash", Text, primary_key=True),
    # NULL: it is being uploaded, or that was broken off.
    Column("size_bytes", BigInteger),
    Column("used_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
)

Index("ix_builder_files_used_at", builder_files.c.used_at)

# Links for uploads that were used, until they have expired.
used_upload_links = Table(
    "used_upload_links",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("expires_at", TIMESTAMP(timezone=True), nullable=False),
)

Index("ix_used_upload_links_expires_at", used_upload_links.c.expires_at)
