"""Tables of templates and their tags. Hidden snapshots are here too: a fork's while its copies start, and layers of builds."""

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
    # Of a `snapshot`: that of the snapshot on its host.
    Column("id", Uuid, primary_key=True),
    # NULL: the platform's.
    Column("team_id", Uuid, ForeignKey("teams.id")),
    # Where the snapshot lies; NULL: a `base`, which any host can get.
    Column("host_id", Uuid, ForeignKey("hosts.id")),
    # NULL: hidden. A fork's is never ready; a ready one is a layer of builds.
    Column("name", Text),
    Column("type", Text, nullable=False, server_default="snapshot"),
    # The image that it, or the first of its ancestors, was started from: as hosts name it.
    Column("image", Text, nullable=False),
    # That image, if it is in the store; NULL: one that hosts built themselves.
    Column("image_id", Uuid, ForeignKey(images.c.id)),
    # Of a `snapshot` the only ones that its sandboxes can have; of a `base` the default ones.
    Column("vcpus", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("disk_size_mb", Integer, nullable=False, server_default=text("5120")),
    Column("size_bytes", BigInteger, nullable=False, server_default=text("0")),
    # Of a `snapshot`: the bytes of all frozen layers of its disk, by id. Others may have them too. Empty: not known.
    Column("layers", JSONB, nullable=False, server_default=text("'{}'")),
    # `VmPlatform` as JSON: what a snapshot needs to be restored. Empty: not known.
    Column("platform", JSONB, nullable=False, server_default=text("'{}'")),
    # Of commands for which the request says nothing; empty: the guest's.
    Column("default_user", Text, nullable=False, server_default=""),
    Column("default_env", JSONB, nullable=False, server_default=text("'{}'")),
    Column("working_dir", Text, nullable=False, server_default=""),
    Column("labels", JSONB, nullable=False, server_default=text("'{}'")),
    # Of a `snapshot`: the image that it is in the store; NULL: it is not there.
    Column("stored_image_id", Uuid),
    # The sandbox that it was taken of; NULL: a `base` that no sandbox was needed for.
    Column("sandbox_id", Uuid),
    Column("build_id", Uuid),
    # What led to it, if a build made it: another build that would come to the same takes it instead.
    Column("build_key", Text),
    # When the oldest of its content was made: a build that takes what an earlier one made does not make that newer.
    Column("built_at", TIMESTAMP(timezone=True)),
    # The actor that created it; NULL: nobody did, or it is older than this column.
    Column("created_by", JSONB),
    Column("status", Text, nullable=False, server_default="pending"),
    # Of a pending one: who makes it. When the time is over, it is removed.
    Column("lease_owner", Text),
    Column("lease_until", TIMESTAMP(timezone=True)),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("type IN ('base', 'snapshot')", name="type"),
    CheckConstraint("(type = 'snapshot') = (host_id IS NOT NULL)", name="host_id"),
    CheckConstraint("team_id IS NOT NULL OR name IS NOT NULL", name="team_id"),
    CheckConstraint("status IN ('pending', 'ready', 'removing')", name="status"),
)

# One snapshot of a name is taken at a time.
Index(
    "uq_templates_pending_name",
    templates.c.team_id,
    templates.c.name,
    unique=True,
    postgresql_where=text("name IS NOT NULL AND status = 'pending'"),
)
Index("ix_templates_team_id_name", templates.c.team_id, templates.c.name)
Index("ix_templates_host_id", templates.c.host_id)
Index("ix_templates_image_id", templates.c.image_id)

Index(
    "ix_templates_build_key",
    templates.c.team_id,
    templates.c.build_key,
    postgresql_where=templates.c.build_key.is_not(None),
)

Index(
    "ix_templates_stored_image_id",
    templates.c.stored_image_id,
    postgresql_where=templates.c.stored_image_id.is_not(None),
)

# Hosts that fetched a snapshot from the store, or began to.
snapshot_copies = Table(
    "snapshot_copies",
    metadata,
    Column("snapshot_id", Uuid, ForeignKey("templates.id", ondelete="CASCADE"), primary_key=True),
    Column("host_id", Uuid, ForeignKey("hosts.id"), primary_key=True),
    # When a sandbox was last created there from it.
    Column("used_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
)

Index("ix_snapshot_copies_host_id", snapshot_copies.c.host_id)

# A ready template has at least one tag; without any it is removed.
template_tags = Table(
    "template_tags",
    metadata,
    Column("template_id", Uuid, ForeignKey("templates.id", ondelete="CASCADE"), nullable=False),
    # NULL: the platform's; as the template's.
    Column("team_id", Uuid, ForeignKey("teams.id")),
    Column("name", Text, nullable=False),
    Column("tag", Text, nullable=False),
    Column("set_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
)

Index(
    "uq_template_tags_team",
    template_tags.c.team_id,
    template_tags.c.name,
    template_tags.c.tag,
    unique=True,
    postgresql_where=text("team_id IS NOT NULL"),
)
Index(
    "uq_template_tags_platform",
    template_tags.c.name,
    template_tags.c.tag,
    unique=True,
    postgresql_where=text("team_id IS NULL"),
)
Index("ix_template_tags_template_id", template_tags.c.template_id)
