"""Tables of hosts, their credentials and tags (platform reference §3.2, with what the monitor measures)."""

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
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from wrenn.control.db import metadata

hosts = Table(
    "hosts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    # `https://HOST:PORT`; empty: its agent has not registered.
    Column("address", Text, nullable=False, server_default=""),
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
    # What identifies the content of each of them, by name, where it is known.
    Column("template_contents", JSONB(none_as_null=True), nullable=False, server_default=text("'{}'")),
    # `VmPlatform` as JSON: which saved virtual machines it can restore. Empty: not known.
    Column("platform", JSONB(none_as_null=True), nullable=False, server_default=text("'{}'")),
    # When an answer to a call of the monitor was stored last, and whether it answered the last call.
    Column("last_seen_at", TIMESTAMP(timezone=True)),
    Column("is_reachable", Boolean, nullable=False, server_default=text("false")),
    # Since when it does not answer; NULL: it answered the last call, or never answered one.
    Column("silent_since", TIMESTAMP(timezone=True)),
    # Digest of what it has, from its last heartbeat; empty: it sends none.
    Column("inventory", Text, nullable=False, server_default=""),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("type", Text, nullable=False, server_default="regular"),
    # Whose it is and whose sandboxes alone it runs; NULL: the platform's.
    Column("team_id", Uuid, ForeignKey("teams.id")),
    Column("provider", Text, nullable=False, server_default=""),
    Column("availability_zone", Text, nullable=False, server_default=""),
    Column("arch", Text, nullable=False, server_default=""),
    # NULL: the operator, on the server.
    Column("created_by", Uuid, ForeignKey("users.id")),
    Column("cert_fingerprint", Text, nullable=False, server_default=""),
    Column("cert_expires_at", TIMESTAMP(timezone=True)),
    # How often its certificates were withdrawn: those of before are not accepted.
    Column("cert_epoch", Integer, nullable=False, server_default=text("0")),
    Column("last_heartbeat_at", TIMESTAMP(timezone=True)),
    # What a drain does with the sandboxes, NULL: it is not drained; when it began, and when no sandbox was in memory any more.
    Column("drain_policy", Text),
    # With the policy "pause": they are moved.
    Column("drain_moves", Boolean, nullable=False, server_default=text("false")),
    Column("drain_began_at", TIMESTAMP(timezone=True)),
    Column("drained_at", TIMESTAMP(timezone=True)),
    # The row stays, as ended sandboxes refer to it.
    Column("deleted_at", TIMESTAMP(timezone=True)),
    CheckConstraint("type IN ('regular', 'byoc')", name="type"),
    CheckConstraint("(type = 'byoc') = (team_id IS NOT NULL)", name="team"),
    CheckConstraint("status IN ('pending', 'online', 'unreachable')", name="status"),
    CheckConstraint("drain_policy IN ('wait', 'pause')", name="drain_policy"),
    CheckConstraint("(drain_policy IS NULL) = (drain_began_at IS NULL)", name="drain_began_at"),
)

# Each team has names of its own, so that none learns or takes those of others.
Index(
    "uq_hosts_regular_name",
    hosts.c.name,
    unique=True,
    postgresql_where=text("team_id IS NULL AND deleted_at IS NULL"),
)
Index(
    "uq_hosts_team_name",
    hosts.c.team_id,
    hosts.c.name,
    unique=True,
    postgresql_where=text("team_id IS NOT NULL AND deleted_at IS NULL"),
)

# A token that is used is deleted.
host_registration_tokens = Table(
    "host_registration_tokens",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("host_id", Uuid, ForeignKey("hosts.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("token_hash", Text, nullable=False, unique=True),
    Column("created_by", Uuid, ForeignKey("users.id")),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", TIMESTAMP(timezone=True), nullable=False),
)

host_refresh_tokens = Table(
    "host_refresh_tokens",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("host_id", Uuid, ForeignKey("hosts.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("token_hash", Text, nullable=False, unique=True),
    Column("expires_at", TIMESTAMP(timezone=True), nullable=False),
    # In the order in which they were issued: written under the lock of the host.
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    Column("revoked_at", TIMESTAMP(timezone=True)),
    # Fingerprints of the CA that signed what came with it, and of those that came as trusted, separated by commas.
    Column("ca_signer", Text, nullable=False, server_default=""),
    Column("ca_trusted", Text, nullable=False, server_default=""),
    # Of the host when it was issued, as the certificate that came with it says; NULL: by a release that does not know it.
    Column("cert_epoch", Integer),
)

# What replicas must have in common. The last one stays when it has ended, so that the next is compared with it.
control_replicas = Table(
    "control_replicas",
    metadata,
    Column("id", Text, primary_key=True),
    Column("ca_signer", Text, nullable=False),
    Column("ca_trusted", Text, nullable=False),
    # Of the secret for tokens, keyed with itself.
    Column("secret_digest", Text, nullable=False),
    Column("is_running", Boolean, nullable=False),
    Column("seen_at", TIMESTAMP(timezone=True), nullable=False),
)

host_tags = Table(
    "host_tags",
    metadata,
    Column("host_id", Uuid, ForeignKey("hosts.id", ondelete="CASCADE"), primary_key=True),
    Column("tag", Text, primary_key=True),
)
