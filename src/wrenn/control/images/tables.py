"""Table of images."""

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

images = Table(
    "images",
    metadata,
    Column("id", Uuid, primary_key=True),
    # NULL: the platform's.
    Column("team_id", Uuid, ForeignKey("teams.id")),
    Column("status", Text, nullable=False, server_default="pending"),
    # `template`: the root file system of one; `sandbox`: the saved state of a paused sandbox; `snapshot`: a snapshot.
    Column("kind", Text, nullable=False, server_default="template"),
    # The host that prepares it and may upload it, while it is pending.
    Column("host_id", Uuid, ForeignKey("hosts.id")),
    # The container image that it was made from, with its digest; NULL: the disk of a sandbox.
    Column("reference", Text),
    # Of the file system, as a guest sees it.
    Column("disk_size_mb", Integer, nullable=False, server_default=text("0")),
    # In the store, with what it shares with other images of its owner.
    Column("stored_bytes", BigInteger, nullable=False, server_default=text("0")),
    # What a container image says: user, environment, working directory, entry point.
    Column("config", JSONB, nullable=False, server_default=text("'{}'")),
    # SHA-256 of its manifest in the store, once it is there.
    Column("manifest_digest", Text),
    # The key of the store with which it is encrypted; NULL: it is not.
    Column("key_id", Text),
    # Of a pending one: who has it made. When the time is over, it is removed.
    Column("lease_owner", Text),
    Column("lease_until", TIMESTAMP(timezone=True)),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("status IN ('pending', 'ready', 'removing')", name="status"),
    CheckConstraint("kind IN ('template', 'sandbox', 'snapshot')", name="kind"),
    CheckConstraint("status <> 'ready' OR manifest_digest IS NOT NULL", name="manifest"),
)

# Owners whose garbage was collected, or is to be.
image_collections = Table(
    "image_collections",
    metadata,
    # The name of its folder in the store.
    Column("owner", Text, primary_key=True),
    # NULL: the platform. Teams that were deleted have objects for a while.
    Column("team_id", Uuid),
    # When a collection was last asked for; NULL: none is since the last one.
    Column("requested_at", TIMESTAMP(timezone=True)),
    # When it may be tried next.
    Column("attempt_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    # Since when it cannot be, because there is always an image that is being uploaded.
    Column("blocked_since", TIMESTAMP(timezone=True)),
)

Index("ix_images_team_id", images.c.team_id)
Index(
    "ix_images_saved_states",
    images.c.id,
    postgresql_where=text("kind = 'sandbox' AND status = 'ready'"),
)
Index(
    "ix_images_snapshots",
    images.c.id,
    postgresql_where=text("kind = 'snapshot' AND status = 'ready'"),
)
Index("ix_images_pending", images.c.lease_until, postgresql_where=text("status <> 'ready'"))
