"""Lifetimes that a pause on request removes.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "sandboxes", sa.Column("lift_on_pause", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    # A client that lives renews such a lifetime each minute, which is no news.
    op.execute("DROP TRIGGER sandbox_updated ON sandboxes")
    op.execute(
        "CREATE TRIGGER sandbox_updated AFTER UPDATE OF timeout_sec, expires_at, on_expiry ON sandboxes FOR EACH ROW"
        " WHEN (OLD.status IS NOT DISTINCT FROM NEW.status"
        " AND (OLD.timeout_sec, OLD.expires_at, OLD.on_expiry)"
        " IS DISTINCT FROM (NEW.timeout_sec, NEW.expires_at, NEW.on_expiry)"
        " AND NOT (OLD.lift_on_pause AND NEW.lift_on_pause AND OLD.expires_at IS NOT NULL"
        " AND NEW.expires_at IS NOT NULL"
        " AND (OLD.timeout_sec, OLD.on_expiry) IS NOT DISTINCT FROM (NEW.timeout_sec, NEW.on_expiry)))"
        " EXECUTE FUNCTION wrenn_sandbox_event()"
    )
