"""Steps of creates, pauses and resumes, with events while one goes on.

Revision ID: 0043b
Revises: 0043a
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0043b"
down_revision = "0043a"
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
_PROGRESS_EVENT = """
CREATE FUNCTION wrenn_sandbox_progress() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO events (team_id, scope, type, resource_id, data)
    VALUES (
        NEW.team_id, 'team', 'sandbox.progress', wrenn_wire_id('cl-', NEW.id),
        NEW.steps || jsonb_build_object('status', NEW.status)
    );
    RETURN NULL;
END
$$
"""
_PROGRESS = (
    "CREATE TRIGGER sandbox_progress AFTER UPDATE OF steps ON sandboxes FOR EACH ROW"
    " WHEN (NEW.steps IS NOT NULL AND OLD.status IS NOT DISTINCT FROM NEW.status"
    " AND OLD.steps IS DISTINCT FROM NEW.steps) EXECUTE FUNCTION wrenn_sandbox_progress()"
)


def upgrade() -> None:
    op.add_column("sandboxes", sa.Column("steps", JSONB(), nullable=True))
    op.execute(_SANDBOX_EVENT)
    op.execute(_PROGRESS_EVENT)
    op.execute(_PROGRESS)
