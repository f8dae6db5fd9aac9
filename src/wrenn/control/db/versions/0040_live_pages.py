"""Events that lists are kept up to date by: sandboxes with what a list shows of them, teams and their members.

Revision ID: 0040
Revises: 0039
"""

from __future__ import annotations

from alembic import op

revision = "0040"
down_revision = "0039"
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
    ELSE
        kind := 'sandbox.updated';
        facts := facts || jsonb_build_object(
            'timeout_sec', NEW.timeout_sec, 'on_expiry', NEW.on_expiry, 'disk_size_mb', NEW.disk_size_mb,
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
# As before with name, labels and disk. A client that lives renews its lifetime each minute, which is no news.
_SANDBOX_UPDATED = (
    "CREATE TRIGGER sandbox_updated AFTER UPDATE OF timeout_sec, expires_at, on_expiry, name, labels, disk_size_mb"
    " ON sandboxes FOR EACH ROW"
    " WHEN (OLD.status IS NOT DISTINCT FROM NEW.status"
    " AND (OLD.timeout_sec, OLD.expires_at, OLD.on_expiry, OLD.name, OLD.labels, OLD.disk_size_mb)"
    " IS DISTINCT FROM (NEW.timeout_sec, NEW.expires_at, NEW.on_expiry, NEW.name, NEW.labels, NEW.disk_size_mb)"
    " AND NOT (OLD.lift_on_pause AND NEW.lift_on_pause AND OLD.expires_at IS NOT NULL"
    " AND NEW.expires_at IS NOT NULL"
    " AND (OLD.timeout_sec, OLD.on_expiry, OLD.name, OLD.labels, OLD.disk_size_mb)"
    " IS NOT DISTINCT FROM (NEW.timeout_sec, NEW.on_expiry, NEW.name, NEW.labels, NEW.disk_size_mb)))"
    " EXECUTE FUNCTION wrenn_sandbox_event()"
)
_BUILD_EVENT = """
CREATE OR REPLACE FUNCTION wrenn_build_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    kind text := 'build.progress';
BEGIN
    IF TG_OP = 'INSERT' OR OLD.status IS DISTINCT FROM NEW.status THEN
        kind := 'build.' || CASE NEW.status WHEN 'pending' THEN 'created' ELSE NEW.status END;
    END IF;
    INSERT INTO events (team_id, scope, type, resource_id, data)
    VALUES (
        NEW.team_id, 'team', kind, wrenn_wire_id('bld-', NEW.id),
        jsonb_build_object(
            'name', NEW.name, 'status', NEW.status, 'current_step', NEW.current_step, 'total_steps', NEW.total_steps
        )
    );
    RETURN NULL;
END
$$
"""
# No addresses and names of people: what a member may read of them is in the list of members.
_TEAM_EVENT = """
CREATE FUNCTION wrenn_team_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO events (team_id, scope, type, resource_id, data)
    VALUES (
        NEW.id, 'team', 'team.updated', wrenn_wire_id('team-', NEW.id),
        jsonb_build_object('name', NEW.name, 'is_byoc', NEW.is_byoc)
    );
    RETURN NULL;
END
$$
"""
_MEMBER_EVENT = """
CREATE FUNCTION wrenn_member_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    member users_teams := CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
BEGIN
    INSERT INTO events (team_id, scope, type, resource_id, data)
    VALUES (
        member.team_id, 'team',
        'team.member.' || CASE TG_OP WHEN 'INSERT' THEN 'added' WHEN 'DELETE' THEN 'removed' ELSE 'updated' END,
        wrenn_wire_id('usr-', member.user_id), jsonb_build_object('role', member.role)
    );
    RETURN NULL;
END
$$
"""
_TRIGGERS = (
    "build_progress AFTER UPDATE OF current_step ON builds FOR EACH ROW"
    " WHEN (OLD.status IS NOT DISTINCT FROM NEW.status AND OLD.current_step IS DISTINCT FROM NEW.current_step)"
    " EXECUTE FUNCTION wrenn_build_event()",
    "team_updated AFTER UPDATE OF name, is_byoc ON teams FOR EACH ROW"
    " WHEN ((OLD.name, OLD.is_byoc) IS DISTINCT FROM (NEW.name, NEW.is_byoc)) EXECUTE FUNCTION wrenn_team_event()",
    "member_listed AFTER INSERT OR DELETE ON users_teams FOR EACH ROW EXECUTE FUNCTION wrenn_member_event()",
    "member_updated AFTER UPDATE OF role ON users_teams FOR EACH ROW WHEN (OLD.role IS DISTINCT FROM NEW.role)"
    " EXECUTE FUNCTION wrenn_member_event()",
)


def upgrade() -> None:
    op.execute(_SANDBOX_EVENT)
    op.execute("DROP TRIGGER sandbox_updated ON sandboxes")
    op.execute(_SANDBOX_UPDATED)
    op.execute(_BUILD_EVENT)
    op.execute(_TEAM_EVENT)
    op.execute(_MEMBER_EVENT)
    for trigger in _TRIGGERS:
        op.execute(f"CREATE TRIGGER {trigger}")
