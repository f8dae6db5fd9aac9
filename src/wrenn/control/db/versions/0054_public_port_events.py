"""Events of sandboxes whose public ports change.

Revision ID: 0054
Revises: 0053
"""

from __future__ import annotations

from alembic import op

revision = "0054"
down_revision = "0053"
branch_labels = None
depends_on = None

_SANDBOX_EVENT = """
CREATE OR REPLACE FUNCTION wrenn_sandbox_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    kind text;
    facts jsonb;
BEGIN
    facts := jsonb_build_object(
        'status', NEW.status, 'template', NEW.template, 'name', NEW.name,
        'expires_at', to_char(NEW.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    );
    IF TG_OP = 'INSERT' THEN
        kind := 'sandbox.created';
        facts := facts || jsonb_build_object(
            'vcpus', NEW.vcpus, 'memory_mb', NEW.memory_mb, 'disk_size_mb', NEW.disk_size_mb,
            'timeout_sec', NEW.timeout_sec, 'on_expiry', NEW.on_expiry, 'created_by', NEW.created_by
        );
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
        IF NEW.status IN ('running', 'paused') AND OLD.steps IS DISTINCT FROM NEW.steps THEN
            facts := facts || jsonb_build_object('steps', NEW.steps -> 'steps');
        END IF;
    ELSE
        kind := 'sandbox.updated';
        facts := facts || jsonb_build_object(
            'timeout_sec', NEW.timeout_sec, 'on_expiry', NEW.on_expiry, 'disk_size_mb', NEW.disk_size_mb,
            'public_ports', NEW.public_ports, 'all_ports_public', NEW.all_ports_public,
            'metadata_changed', OLD.labels IS DISTINCT FROM NEW.labels
        );
    END IF;
    IF kind IS NOT NULL THEN
        INSERT INTO events (team_id, scope, type, resource_id, data)
        VALUES (NEW.team_id, 'team', kind, wrenn_wire_id('cl-', NEW.id), facts);
    END IF;
    RETURN NULL;
END
$$
"""
# As before with the public ports, which a change of the lifetime alone leaves as they are.
_SANDBOX_UPDATED = (
    "CREATE TRIGGER sandbox_updated AFTER UPDATE OF timeout_sec, expires_at, on_expiry, name, labels, disk_size_mb,"
    " public_ports, all_ports_public ON sandboxes FOR EACH ROW"
    " WHEN (OLD.status IS NOT DISTINCT FROM NEW.status"
    " AND (OLD.timeout_sec, OLD.expires_at, OLD.on_expiry, OLD.name, OLD.labels, OLD.disk_size_mb,"
    " OLD.public_ports, OLD.all_ports_public)"
    " IS DISTINCT FROM (NEW.timeout_sec, NEW.expires_at, NEW.on_expiry, NEW.name, NEW.labels, NEW.disk_size_mb,"
    " NEW.public_ports, NEW.all_ports_public)"
    " AND NOT (OLD.lift_on_pause AND NEW.lift_on_pause AND OLD.expires_at IS NOT NULL"
    " AND NEW.expires_at IS NOT NULL"
    " AND (OLD.timeout_sec, OLD.on_expiry, OLD.name, OLD.labels, OLD.disk_size_mb, OLD.public_ports,"
    " OLD.all_ports_public)"
    " IS NOT DISTINCT FROM (NEW.timeout_sec, NEW.on_expiry, NEW.name, NEW.labels, NEW.disk_size_mb,"
    " NEW.public_ports, NEW.all_ports_public)))"
    " EXECUTE FUNCTION wrenn_sandbox_event()"
)


def upgrade() -> None:
    op.execute(_SANDBOX_EVENT)
    op.execute("DROP TRIGGER sandbox_updated ON sandboxes")
    op.execute(_SANDBOX_UPDATED)
