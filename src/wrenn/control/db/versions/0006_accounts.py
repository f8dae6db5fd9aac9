"""Hints when somebody may have lost access.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
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
    op.execute(_ACCESS_HINT)
    for table, changes in _ACCESS_CHANGES.items():
        op.execute(
            f"CREATE TRIGGER wrenn_access_hint AFTER {changes} ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION wrenn_access_hint()"
        )
