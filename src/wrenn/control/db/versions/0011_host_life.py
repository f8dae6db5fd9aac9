"""Hosts of teams, their registration and credentials, tags.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_EVENT = """
CREATE OR REPLACE FUNCTION wrenn_host_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    kind text;
BEGIN
    IF TG_OP = 'INSERT' THEN
        kind := 'host.created';
    ELSIF OLD.deleted_at IS DISTINCT FROM NEW.deleted_at THEN
        kind := 'host.deleted';
    ELSE
        kind := CASE NEW.status WHEN 'online' THEN 'host.up' ELSE 'host.down' END;
    END IF;
    INSERT INTO events (team_id, scope, type, resource_id, data)
    VALUES (
        coalesce(NEW.team_id, '00000000-0000-0000-0000-000000000000'),
        CASE WHEN NEW.team_id IS NULL THEN 'admin' ELSE 'team' END,
        kind, wrenn_wire_id('host-', NEW.id), jsonb_build_object('name', NEW.name, 'status', NEW.status)
    );
    RETURN NULL;
END
$$
"""
_TRIGGERS = (
    "host_created AFTER INSERT ON hosts FOR EACH ROW EXECUTE FUNCTION wrenn_host_event()",
    "host_changed AFTER UPDATE OF status, deleted_at ON hosts FOR EACH ROW"
    " WHEN ((OLD.status, OLD.deleted_at) IS DISTINCT FROM (NEW.status, NEW.deleted_at))"
    " EXECUTE FUNCTION wrenn_host_event()",
)


def _moment(name: str, *, now: bool = False, nullable: bool = False) -> sa.Column[object]:
    default = sa.func.now() if now else None
    return sa.Column(name, sa.TIMESTAMP(timezone=True), server_default=default, nullable=nullable)


def upgrade() -> None:
    for column in (
        sa.Column("type", sa.Text(), server_default="regular", nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=True),
        sa.Column("provider", sa.Text(), server_default="", nullable=False),
        sa.Column("availability_zone", sa.Text(), server_default="", nullable=False),
        sa.Column("arch", sa.Text(), server_default="", nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=True),
        sa.Column("is_reachable", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("cert_fingerprint", sa.Text(), server_default="", nullable=False),
        _moment("cert_expires_at", nullable=True),
        _moment("last_heartbeat_at", nullable=True),
        _moment("deleted_at", nullable=True),
    ):
        op.add_column("hosts", column)
    op.alter_column("hosts", "address", server_default="")
    op.create_foreign_key(op.f("fk_hosts_team_id"), "hosts", "teams", ["team_id"], ["id"])
    op.create_foreign_key(op.f("fk_hosts_created_by"), "hosts", "users", ["created_by"], ["id"])
    op.create_check_constraint(op.f("ck_hosts_type"), "hosts", "type IN ('regular', 'byoc')")
    op.create_check_constraint(op.f("ck_hosts_team"), "hosts", "(type = 'byoc') = (team_id IS NOT NULL)")
    op.drop_constraint("uq_hosts_name", "hosts", type_="unique")
    op.create_index(
        "uq_hosts_regular_name",
        "hosts",
        ["name"],
        unique=True,
        postgresql_where=sa.text("team_id IS NULL AND deleted_at IS NULL"),
    )
    op.create_index(
        "uq_hosts_team_name",
        "hosts",
        ["team_id", "name"],
        unique=True,
        postgresql_where=sa.text("team_id IS NOT NULL AND deleted_at IS NULL"),
    )
    op.create_table(
        "host_registration_tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("host_id", sa.Uuid(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=True),
        _moment("created_at", now=True),
        _moment("expires_at"),
        sa.ForeignKeyConstraint(
            ["host_id"], ["hosts.id"], name=op.f("fk_host_registration_tokens_host_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["created_by"], ["users.id"], name=op.f("fk_host_registration_tokens_created_by")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_host_registration_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_host_registration_tokens_token_hash")),
    )
    op.create_index(
        op.f("ix_host_registration_tokens_host_id"), "host_registration_tokens", ["host_id"], unique=False
    )
    op.create_table(
        "host_refresh_tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("host_id", sa.Uuid(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        _moment("expires_at"),
        _moment("created_at", now=True),
        _moment("revoked_at", nullable=True),
        sa.ForeignKeyConstraint(
            ["host_id"], ["hosts.id"], name=op.f("fk_host_refresh_tokens_host_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_host_refresh_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_host_refresh_tokens_token_hash")),
    )
    op.create_index(op.f("ix_host_refresh_tokens_host_id"), "host_refresh_tokens", ["host_id"], unique=False)
    op.create_table(
        "host_tags",
        sa.Column("host_id", sa.Uuid(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["host_id"], ["hosts.id"], name=op.f("fk_host_tags_host_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("host_id", "tag", name=op.f("pk_host_tags")),
    )
    op.execute(_EVENT)
    op.execute("DROP TRIGGER host_changed ON hosts")
    for trigger in _TRIGGERS:
        op.execute(f"CREATE TRIGGER {trigger}")
