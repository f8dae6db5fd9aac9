"""Moves of paused sandboxes between hosts; images that are the saved state of a sandbox.

Revision ID: 0029
Revises: 0028
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

_IN_WORK = (
    "status IN ('pending', 'starting') OR (status IN ('running', 'paused') AND desired <> status)"
    " OR (status = 'missing' AND desired = 'stopped')"
)


def upgrade() -> None:
    op.add_column("images", sa.Column("kind", sa.Text(), server_default="template", nullable=False))
    op.create_check_constraint("kind", "images", "kind IN ('template', 'sandbox')")
    op.create_index(
        "ix_images_saved_states",
        "images",
        ["id"],
        postgresql_where=sa.text("kind = 'sandbox' AND status = 'ready'"),
    )
    op.add_column("sandboxes", sa.Column("move_host_id", sa.Uuid(), sa.ForeignKey("hosts.id"), nullable=True))
    op.add_column(
        "sandboxes", sa.Column("move_resumes", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column(
        "sandboxes",
        sa.Column("move_generation", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.add_column("sandboxes", sa.Column("stored_image_id", sa.Uuid(), nullable=True))
    op.create_index(
        "ix_sandboxes_stored_image_id",
        "sandboxes",
        ["stored_image_id"],
        postgresql_where=sa.text("stored_image_id IS NOT NULL"),
    )
    # The former version asks for less than the new index has, so it uses it too.
    op.drop_index("ix_sandboxes_work", "sandboxes")
    op.create_index(
        "ix_sandboxes_work",
        "sandboxes",
        ["next_attempt_at"],
        postgresql_where=sa.text(f"{_IN_WORK} OR (status = 'paused' AND move_host_id IS NOT NULL)"),
    )
