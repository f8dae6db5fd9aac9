"""An event when the agent of a host registers: `host.registered`.

A replica of the version before passes it on like any other event of a host.

Revision ID: 0053
Revises: 0052
"""

from __future__ import annotations

from alembic import op

revision = "0053"
down_revision = "0052"
branch_labels = None
depends_on = None

_EVENT = """
CREATE OR REPLACE FUNCTION wrenn_host_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    kind text;
    facts jsonb;
BEGIN
    facts := jsonb_build_object('name', NEW.name, 'status', NEW.status);
    IF TG_OP = 'INSERT' THEN
        kind := 'host.created';
    ELSIF OLD.deleted_at IS DISTINCT FROM NEW.deleted_at THEN
        kind := 'host.deleted';
    ELSIF OLD.status IS DISTINCT FROM NEW.status THEN
        kind := CASE NEW.status WHEN 'online' THEN 'host.up' ELSE 'host.down' END;
    ELSIF OLD.address IS DISTINCT FROM NEW.address THEN
        kind := 'host.registered';
    ELSIF NEW.drain_policy IS NULL THEN
        kind := 'host.uncordoned';
    ELSE
        kind := CASE WHEN NEW.drained_at IS NULL THEN 'host.draining' ELSE 'host.drained' END;
        facts := facts || jsonb_build_object('policy', CASE WHEN NEW.drain_moves THEN 'move' ELSE NEW.drain_policy END);
    END IF;
    INSERT INTO events (team_id, scope, type, resource_id, data)
    VALUES (
        coalesce(NEW.team_id, '00000000-0000-0000-0000-000000000000'),
        CASE WHEN NEW.team_id IS NULL THEN 'admin' ELSE 'team' END,
        kind, wrenn_wire_id('host-', NEW.id), facts
    );
    RETURN NULL;
END
$$
"""
_OF = "status, address, deleted_at, drain_policy, drain_moves, drained_at"
_OLD, _NEW = (", ".join(f"{row}.{column}" for column in _OF.split(", ")) for row in ("OLD", "NEW"))
_TRIGGER = (
    f"CREATE TRIGGER host_changed AFTER UPDATE OF {_OF} ON hosts FOR EACH ROW"
    f" WHEN (({_OLD}) IS DISTINCT FROM ({_NEW})) EXECUTE FUNCTION wrenn_host_event()"
)


def upgrade() -> None:
    op.execute(_EVENT)
    op.execute("DROP TRIGGER host_changed ON hosts")
    op.execute(_TRIGGER)
