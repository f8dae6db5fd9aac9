"""Ports that anybody may visit, the secret of links, and a hint when a key or a team goes.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "sandboxes",
        sa.Column(
            "public_ports", postgresql.ARRAY(sa.Integer()), server_default=sa.text("'{}'"), nullable=False
        ),
    )
    op.create_table(
        "link_secrets",
        sa.Column("id", sa.SmallInteger(), server_default=sa.text("1"), autoincrement=False, nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_link_secrets_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_link_secrets")),
    )
    # Replicas remember for a moment whose a key is. However a key or a team ends, they are told to forget it.
    op.execute(
        "CREATE FUNCTION wrenn_hint() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_notify('wrenn_sandboxes', ''); RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER wrenn_key_hint AFTER DELETE OR UPDATE OF key_hash, team_id ON team_api_keys"
        " FOR EACH STATEMENT EXECUTE FUNCTION wrenn_hint()"
    )
    op.execute(
        "CREATE TRIGGER wrenn_team_hint AFTER DELETE OR UPDATE OF deleted_at ON teams"
        " FOR EACH STATEMENT EXECUTE FUNCTION wrenn_hint()"
    )
