"""Logins to registries that came with the requests of builds.

Revision ID: 0055
Revises: 0054
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0055"
down_revision = "0054"
branch_labels = None
depends_on = None

_DELETE_LOGIN = """
CREATE FUNCTION wrenn_delete_build_login() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM build_registry_logins WHERE build_id = NEW.id;
    RETURN NULL;
END
$$
"""
_BUILD_ENDED = (
    "CREATE TRIGGER build_ended AFTER UPDATE OF status ON builds FOR EACH ROW"
    " WHEN (NEW.status IN ('success', 'failed', 'cancelled'))"
    " EXECUTE FUNCTION wrenn_delete_build_login()"
)


def upgrade() -> None:
    op.create_table(
        "build_registry_logins",
        sa.Column("build_id", sa.Uuid(), nullable=False),
        sa.Column("registry", sa.Text(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("sealed_password", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["build_id"],
            ["builds.id"],
            name=op.f("fk_build_registry_logins_build_id_builds"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("build_id", name=op.f("pk_build_registry_logins")),
    )
    # Here rather than in the code: a replica of the version before also ends builds.
    op.execute(_DELETE_LOGIN)
    op.execute(_BUILD_ENDED)
