"""Replicas of the control plane with their CA, and the CAs that hosts were given.

Revision ID: 0016
Revises: 0015
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("ca_signer", "ca_trusted"):
        op.add_column("host_refresh_tokens", sa.Column(name, sa.Text(), server_default="", nullable=False))
    op.create_table(
        "control_replicas",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("ca_signer", sa.Text(), nullable=False),
        sa.Column("ca_trusted", sa.Text(), nullable=False),
        sa.Column("secret_digest", sa.Text(), nullable=False),
        sa.Column("is_running", sa.Boolean(), nullable=False),
        sa.Column("seen_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_control_replicas")),
    )
