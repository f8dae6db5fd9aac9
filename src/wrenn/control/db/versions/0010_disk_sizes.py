"""Disk sizes of snapshots, and the share of a host's disk that a sandbox may take.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Until now every disk had this size.
    op.add_column(
        "templates", sa.Column("disk_size_mb", sa.Integer(), server_default=sa.text("5120"), nullable=False)
    )
    op.add_column(
        "hosts", sa.Column("sandbox_disk_b", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
