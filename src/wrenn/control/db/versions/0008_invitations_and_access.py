"""Invitations into teams, what becomes of removed members' keys, and hints when somebody may have lost access.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_ACCESS_HINT = """
CREATE FUNCTION wrenn_access_hint() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('wrenn_access', '');
    RETURN NULL;
END
$$
"""
# Whatever takes access away. A refresh of a session, the last use of a key and a new member are no such thing.
_ACCESS_CHANGES = {
    "team_api_keys": "DELETE OR UPDATE OF key_hash, team_id, scope, expires_at",
    "teams": "DELETE OR UPDATE OF deleted_at",
    "users": "DELETE OR UPDATE OF status",
    "users_teams": "DELETE OR UPDATE OF role",
    "sessions": "DELETE OR UPDATE OF ended_at, expires_at",
}


def upgrade() -> None:
    op.create_table(
        "team_invitations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("invited_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["team_id"], ["teams.id"], name=op.f("fk_team_invitations_team_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["invited_by"], ["users.id"], name=op.f("fk_team_invitations_invited_by"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_team_invitations")),
        sa.UniqueConstraint("team_id", "email", name=op.f("uq_team_invitations_team_id")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_team_invitations_token_hash")),
    )
    op.execute(_ACCESS_HINT)
    for table, changes in _ACCESS_CHANGES.items():
        op.execute(
            f"CREATE TRIGGER wrenn_access_hint AFTER {changes} ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION wrenn_access_hint()"
        )
    # After the triggers, which let others read the tables meanwhile; this one does not.
    op.add_column(
        "teams",
        sa.Column("keeps_keys_of_removed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
