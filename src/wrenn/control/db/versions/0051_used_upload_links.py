"""Links for uploads of e2b's template builder that were used.

Revision ID: 0051
Revises: 0050
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0051"
down_revision = "0050"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A replica of the version before does not accept the links of this one, nor this one the former ones: a client asks for a new link.
    op.create_table(
        "used_upload_links",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_used_upload_links")),
    )
    op.create_index("ix_used_upload_links_expires_at", "used_upload_links", ["expires_at"])
