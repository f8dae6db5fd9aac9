"""Table of sandboxes (platform reference §3.2, with what the reconciler needs)."""

from __future__ import annotations

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from wrenn.control.db import metadata

sandboxes = Table(
    "sandboxes",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("team_id", Uuid, ForeignKey("teams.id"), nullable=False),
    Column("host_id", Uuid, ForeignKey("hosts.id"), nullable=False),
    Column("template", Text, nullable=False, server_default="minimal"),
    # What the host starts it from: an image (empty: the one named like the template), and perhaps a snapshot.
    Column("image", Text, nullable=False, server_default=""),
    Column("snapshot_id", Uuid),
    # The version of the template that it was created from, which may be gone; NULL: hosts built that themselves.
    Column("template_id", Uuid),
    # The build whose steps run in it: nothing else changes it while the build runs. NULL: none.
    Column("build_id", Uuid),
    # Of commands that say nothing about it.
    Column("default_user", Text, nullable=False, server_default="root"),
    Column("working_dir", Text, nullable=False, server_default=""),
    Column("vcpus", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("disk_size_mb", Integer, nullable=False),
    Column("timeout_sec", Integer, nullable=False, server_default=text("0")),
    Column("expires_at", TIMESTAMP(timezone=True)),
    Column("on_expiry", Text, nullable=False, server_default="pause"),
    # A pause that somebody asks for takes `expires_at` away. See "Time-outs" in docs/design/control.md.
    Column("lift_on_pause", Boolean, nullable=False, server_default=text("false")),
    # The lifetime that begins with each resume, in seconds; 0: none.
    Column("resume_lifetime_sec", Integer, nullable=False, server_default=text("0")),
    # A pause at the end of its idle time or of its lifetime keeps the memory.
    Column("keep_memory_on_pause", Boolean, nullable=False, server_default=text("true")),
    Column("auto_resume", Boolean, nullable=False, server_default=text("false")),
    # Ports that anybody may visit, without a credential.
    Column("public_ports", ARRAY(Integer), nullable=False, server_default=text("'{}'")),
    Column("all_ports_public", Boolean, nullable=False, server_default=text("false")),
    # The `Host` that programs get, with `${PORT}` for the port; empty: the visitor's.
    Column("request_host", Text, nullable=False, server_default=""),
    # `records.NetworkPolicy` as JSON, empty: the default; its revision grows with each change, so that a host that has an
    # older one is told.
    Column("network", JSONB, nullable=False, server_default=text("'{}'")),
    Column("network_revision", Integer, nullable=False, server_default=text("0")),
    # Which its host must have when it is placed.
    Column("host_tags", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    # What its owner calls it. Names need not be unique.
    Column("name", Text, nullable=False, server_default=""),
    Column("labels", JSONB, nullable=False, server_default=text("'{}'")),
    # Who asked for it, as `audit.actor_json`; NULL: not known.
    Column("created_by", JSONB),
    # When `reconcile/expiry.py` must look at it: the end of its idle time or of its life, or later after a pause was not possible.
    # Written whenever last use, limits or state are.
    Column("due_at", TIMESTAMP(timezone=True)),
    # May hold secrets of the user: emptied when the sandbox ends, never in an answer or a log.
    Column("envs", JSONB, nullable=False, server_default=text("'{}'")),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),
    # `VmPlatform` as JSON: what its last pause needs to be resumed. Empty: not known.
    Column("platform", JSONB, nullable=False, server_default=text("'{}'")),
    Column("host_ip", Text, nullable=False, server_default=""),
    Column("status", Text, nullable=False, server_default="pending"),
    Column("desired", Text, nullable=False, server_default="running"),
    # When `desired` was written; NULL: at the creation.
    Column("desired_at", TIMESTAMP(timezone=True)),
    # Who wrote it, as `audit.actor_json`: named by the audit log when it is done; NULL: nobody but the system.
    Column("desired_by", JSONB),
    # `desired = paused` holds only if it was not in use for so long; 0: in any case.
    Column("idle_ms", BigInteger, nullable=False, server_default=text("0")),
    # The pause or resume that `desired` asks for keeps the memory; true again when it is done.
    Column("keeps_memory", Boolean, nullable=False, server_default=text("true")),
    # The steps of its last create, pause or resume, as `HostSteps` in JSON; NULL: not known.
    Column("steps", JSONB),
    # Why it is in `error`, or why the last pause or resume was not done: code of wrenn.base.errors and public text.
    Column("failure", Text, nullable=False, server_default=""),
    Column("reason", Text, nullable=False, server_default=""),
    # Counts the writes of status, desired and lease: what was decided on an older version is not written.
    Column("version", Integer, nullable=False, server_default=text("1")),
    # Raised whenever the sandbox is started on another host, which gets it with the sandbox: of two copies the lower one is outdated.
    Column("generation", BigInteger, nullable=False, server_default=text("1")),
    # Where it is being moved to; NULL: nowhere. See docs/design/moves.md.
    Column("move_host_id", Uuid, ForeignKey("hosts.id")),
    # It is resumed when the move is over, done or not.
    Column("move_resumes", Boolean, nullable=False, server_default=text("false")),
    # The highest generation that was given to the target of a move.
    Column("move_generation", BigInteger, nullable=False, server_default=text("0")),
    # The image that is its saved state in the store, as it was stored last; may be gone once it has ended.
    Column("stored_image_id", Uuid),
    # When it was paused last; NULL: not known.
    Column("paused_at", TIMESTAMP(timezone=True)),
    # When the state was saved that `stored_image_id` is: at its last pause, if this is `paused_at`; NULL: not known.
    Column("stored_at", TIMESTAMP(timezone=True)),
    # If this is `desired_at`, the move under way is a recovery: its host is lost, and it is started from `stored_image_id`.
    Column("recovery_at", TIMESTAMP(timezone=True)),
    Column("lease_owner", Text),
    Column("lease_until", TIMESTAMP(timezone=True)),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("next_attempt_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("idempotency_key", Text),
    Column("request_digest", LargeBinary),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("started_at", TIMESTAMP(timezone=True)),
    Column("last_active_at", TIMESTAMP(timezone=True)),
    Column("last_updated", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint("team_id", "idempotency_key", name="uq_sandboxes_idempotency_key"),
    CheckConstraint(
        "status IN ('pending', 'starting', 'running', 'paused', 'missing', 'stopped', 'error')", name="status"
    ),
    CheckConstraint("desired IN ('running', 'paused', 'stopped')", name="desired"),
    CheckConstraint("on_expiry IN ('pause', 'kill')", name="on_expiry"),
)

_LIVE = text("status NOT IN ('stopped', 'error')")
# Ended sandboxes are kept for ever; the loops and lists must not pay for them.
Index("ix_sandboxes_team_live", sandboxes.c.team_id, sandboxes.c.created_at.desc(), postgresql_where=_LIVE)
# How many a team made within the last second.
Index("ix_sandboxes_team_created", sandboxes.c.team_id, sandboxes.c.created_at)
Index("ix_sandboxes_host_live", sandboxes.c.host_id, postgresql_where=_LIVE)
Index(
    "ix_sandboxes_work",
    sandboxes.c.next_attempt_at,
    postgresql_where=text(
        "status IN ('pending', 'starting') OR (status IN ('running', 'paused') AND desired <> status)"
        " OR (status = 'missing' AND desired = 'stopped')"
        " OR (status = 'paused' AND move_host_id IS NOT NULL)"
    ),
)
# Whether the saved state in an image is still wanted.
Index(
    "ix_sandboxes_stored_image_id",
    sandboxes.c.stored_image_id,
    postgresql_where=text("stored_image_id IS NOT NULL"),
)
# Paused sandboxes whose state is not in the store.
Index(
    "ix_sandboxes_to_store",
    sandboxes.c.paused_at,
    postgresql_where=text(
        "status = 'paused' AND desired = 'paused' AND move_host_id IS NULL AND stored_at IS DISTINCT FROM paused_at"
    ),
)
Index(
    "ix_sandboxes_build_live",
    sandboxes.c.build_id,
    postgresql_where=text("build_id IS NOT NULL AND status NOT IN ('stopped', 'error')"),
)
Index(
    "ix_sandboxes_due_at",
    sandboxes.c.due_at,
    postgresql_where=text("due_at IS NOT NULL AND status NOT IN ('stopped', 'error')"),
)
# The copies of a fork that is taken back.
Index(
    "ix_sandboxes_snapshot_live",
    sandboxes.c.snapshot_id,
    postgresql_where=text("snapshot_id IS NOT NULL AND status NOT IN ('stopped', 'error')"),
)

# Sandboxes that are being uploaded to the store while they are paused, and by which replica.
sandbox_uploads = Table(
    "sandbox_uploads",
    metadata,
    Column("id", Uuid, ForeignKey("sandboxes.id", ondelete="CASCADE"), primary_key=True),
    Column("lease_owner", Text),
    Column("lease_until", TIMESTAMP(timezone=True)),
)
