"""Audit log, events, limits of teams; who wants what is wanted of a sandbox.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# The same as `str(Id)` of wrenn.base.ids: prefix and 25 digits of base 36.
_WIRE_ID = """
CREATE FUNCTION wrenn_wire_id(prefix text, id uuid) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    hex text := replace(id::text, '-', '');
    rest numeric := 0;
    digits text := '';
BEGIN
    FOR part IN 0..3 LOOP
        rest := rest * 4294967296 + ('x' || lpad(substr(hex, 1 + 8 * part, 8), 16, '0'))::bit(64)::bigint;
    END LOOP;
    FOR place IN 1..25 LOOP
        digits := substr('0123456789abcdefghijklmnopqrstuvwxyz', (rest % 36)::int + 1, 1) || digits;
        rest := div(rest, 36);
    END LOOP;
    RETURN prefix || digits;
END
$$
"""

# The transaction gets its number before the clock is read: whoever has a later number has a later time, which the reader of
# the log relies on (control/db/settled.py).
_AUDIT_STAMP = """
CREATE FUNCTION wrenn_audit_stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_current_xact_id();
    NEW.created_at := clock_timestamp();
    RETURN NEW;
END
$$
"""
_AUDIT_REFUSE = """
CREATE FUNCTION wrenn_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_logs is append-only: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END
$$
"""
# Set only by wrenn_audit_expire, and then good for whole days only: it opens no way to what happened just now.
_AUDIT_KEEP = """
CREATE FUNCTION wrenn_audit_keep() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    days int := nullif(current_setting('wrenn.audit_retention_days', true), '')::int;
BEGIN
    IF days >= 1 AND OLD.created_at < now() - make_interval(days => days) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'audit_logs is append-only: DELETE is refused' USING ERRCODE = 'insufficient_privilege';
END
$$
"""
_AUDIT_EXPIRE = """
CREATE FUNCTION wrenn_audit_expire(days int, most int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    gone int;
BEGIN
    PERFORM set_config('wrenn.audit_retention_days', days::text, true);
    DELETE FROM audit_logs WHERE id IN (
        SELECT id FROM audit_logs WHERE created_at < now() - make_interval(days => days)
        ORDER BY created_at LIMIT most FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS gone = ROW_COUNT;
    PERFORM set_config('wrenn.audit_retention_days', '', true);
    RETURN gone;
END
$$
"""

_SANDBOX_EVENT = """
CREATE FUNCTION wrenn_sandbox_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    kind text;
    facts jsonb;
BEGIN
    facts := jsonb_build_object('status', NEW.status, 'template', NEW.template);
    IF TG_OP = 'INSERT' THEN
        kind := 'sandbox.created';
    ELSIF OLD.status IS DISTINCT FROM NEW.status THEN
        kind := CASE
            WHEN NEW.status = 'running' AND OLD.status = 'paused' THEN 'sandbox.resumed'
            WHEN NEW.status = 'stopped' THEN 'sandbox.destroyed'
            WHEN NEW.status IN ('running', 'paused', 'missing', 'error') THEN 'sandbox.' || NEW.status
        END;
        facts := facts || jsonb_build_object('previous_status', OLD.status);
        IF NEW.status IN ('error', 'paused') AND NEW.reason <> '' THEN
            facts := facts || jsonb_build_object('reason', left(NEW.reason, 500));
        END IF;
    ELSE
        kind := 'sandbox.updated';
        facts := facts || jsonb_build_object('timeout_sec', NEW.timeout_sec, 'on_expiry', NEW.on_expiry);
    END IF;
    IF kind IS NOT NULL THEN
        INSERT INTO events (team_id, scope, type, resource_id, data)
        VALUES (NEW.team_id, 'team', kind, wrenn_wire_id('cl-', NEW.id), facts);
    END IF;
    RETURN NULL;
END
$$
"""
_TEMPLATE_EVENT = """
CREATE FUNCTION wrenn_template_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO events (team_id, scope, type, resource_id, data)
    VALUES (
        NEW.team_id, 'team', 'template.snapshot.' || CASE NEW.status WHEN 'ready' THEN 'created' ELSE 'deleted' END,
        NEW.name, jsonb_build_object('vcpus', NEW.vcpus, 'memory_mb', NEW.memory_mb, 'size_bytes', NEW.size_bytes)
    );
    RETURN NULL;
END
$$
"""
_HOST_EVENT = """
CREATE FUNCTION wrenn_host_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO events (team_id, scope, type, resource_id, data)
    VALUES (
        '00000000-0000-0000-0000-000000000000', 'admin',
        CASE NEW.status WHEN 'online' THEN 'host.up' ELSE 'host.down' END,
        wrenn_wire_id('host-', NEW.id), jsonb_build_object('name', NEW.name, 'status', NEW.status)
    );
    RETURN NULL;
END
$$
"""
_AUDIT_EVENT = """
CREATE FUNCTION wrenn_audit_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO events (team_id, scope, type, resource_id, data)
    VALUES (
        NEW.team_id, NEW.scope, 'audit.recorded', wrenn_wire_id('log-', NEW.id),
        to_jsonb(NEW) - ARRAY['id', 'team_id', 'created_at']
    );
    RETURN NULL;
END
$$
"""
_EVENTS_NOTIFY = """
CREATE FUNCTION wrenn_events_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('wrenn_events', '');
    RETURN NULL;
END
$$
"""

_FUNCTIONS = (
    _WIRE_ID,
    _AUDIT_STAMP,
    _AUDIT_REFUSE,
    _AUDIT_KEEP,
    _AUDIT_EXPIRE,
    _SANDBOX_EVENT,
    _TEMPLATE_EVENT,
    _HOST_EVENT,
    _AUDIT_EVENT,
    _EVENTS_NOTIFY,
)
_CHANGED = "OLD.status IS DISTINCT FROM NEW.status"
_TRIGGERS = (
    "audit_stamp BEFORE INSERT ON audit_logs FOR EACH ROW EXECUTE FUNCTION wrenn_audit_stamp()",
    "audit_refuse BEFORE UPDATE OR TRUNCATE ON audit_logs FOR EACH STATEMENT EXECUTE FUNCTION wrenn_audit_refuse()",
    "audit_keep BEFORE DELETE ON audit_logs FOR EACH ROW EXECUTE FUNCTION wrenn_audit_keep()",
    "audit_event AFTER INSERT ON audit_logs FOR EACH ROW EXECUTE FUNCTION wrenn_audit_event()",
    "sandbox_created AFTER INSERT ON sandboxes FOR EACH ROW EXECUTE FUNCTION wrenn_sandbox_event()",
    f"sandbox_changed AFTER UPDATE OF status ON sandboxes FOR EACH ROW WHEN ({_CHANGED})"
    " EXECUTE FUNCTION wrenn_sandbox_event()",
    "sandbox_updated AFTER UPDATE OF timeout_sec, expires_at, on_expiry ON sandboxes FOR EACH ROW"
    f" WHEN (NOT ({_CHANGED}) AND (OLD.timeout_sec, OLD.expires_at, OLD.on_expiry)"
    " IS DISTINCT FROM (NEW.timeout_sec, NEW.expires_at, NEW.on_expiry)) EXECUTE FUNCTION wrenn_sandbox_event()",
    f"template_changed AFTER UPDATE OF status ON templates FOR EACH ROW WHEN ({_CHANGED}"
    " AND NEW.name IS NOT NULL AND (NEW.status = 'ready' OR OLD.status = 'ready'))"
    " EXECUTE FUNCTION wrenn_template_event()",
    f"host_changed AFTER UPDATE OF status ON hosts FOR EACH ROW WHEN ({_CHANGED}) EXECUTE FUNCTION wrenn_host_event()",
    "events_notify AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION wrenn_events_notify()",
)


def upgrade() -> None:
    op.add_column("sandboxes", sa.Column("desired_by", postgresql.JSONB(), nullable=True))
    op.create_index("ix_sandboxes_team_created", "sandboxes", ["team_id", "created_at"], unique=False)
    op.create_table(
        "audit_logs",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("actor_type", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Text(), server_default="", nullable=False),
        sa.Column("actor_name", sa.Text(), server_default="", nullable=False),
        sa.Column("resource_type", sa.Text(), nullable=False),
        sa.Column("resource_id", sa.Text(), server_default="", nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), server_default="team", nullable=False),
        sa.Column("status", sa.Text(), server_default="success", nullable=False),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint(
            "actor_type IN ('user', 'api_key', 'system')", name=op.f("ck_audit_logs_actor_type")
        ),
        sa.CheckConstraint("scope IN ('team', 'admin')", name=op.f("ck_audit_logs_scope")),
        sa.CheckConstraint(
            "status IN ('success', 'info', 'warning', 'error')", name=op.f("ck_audit_logs_status")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_logs")),
    )
    op.create_index(
        "ix_audit_logs_team", "audit_logs", ["team_id", sa.text("created_at DESC"), sa.text("id DESC")]
    )
    op.create_index(
        "ix_audit_logs_team_resource",
        "audit_logs",
        ["team_id", "resource_type", sa.text("created_at DESC"), sa.text("id DESC")],
    )
    op.create_index("ix_audit_logs_created_at", "audit_logs", ["created_at"])
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "txid",
            sa.BigInteger(),
            server_default=sa.text("((pg_current_xact_id())::text)::bigint"),
            nullable=False,
        ),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("resource_id", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_position", "events", ["txid", "id"])
    op.create_index("ix_events_created_at", "events", ["created_at"])
    op.create_table(
        "events_pruned",
        sa.Column("one_row", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("txid", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("one_row", name=op.f("ck_events_pruned_one_row")),
        sa.PrimaryKeyConstraint("one_row", name=op.f("pk_events_pruned")),
    )
    op.create_table(
        "team_limits",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("running_sandboxes", sa.Integer(), nullable=True),
        sa.Column("total_sandboxes", sa.Integer(), nullable=True),
        sa.Column("vcpus", sa.Integer(), nullable=True),
        sa.Column("memory_mb", sa.BigInteger(), nullable=True),
        sa.Column("snapshot_mb", sa.BigInteger(), nullable=True),
        sa.Column("creates_per_second", sa.Integer(), nullable=True),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(
            ["team_id"], ["teams.id"], name=op.f("fk_team_limits_team_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("team_id", name=op.f("pk_team_limits")),
    )
    for function in _FUNCTIONS:
        op.execute(function)
    for trigger in _TRIGGERS:
        op.execute(f"CREATE TRIGGER {trigger}")
