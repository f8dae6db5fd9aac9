"""How often the certificates of a host were withdrawn.

Revision ID: 0058
Revises: 0057
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0058"
down_revision = "0057"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hosts", sa.Column("cert_epoch", sa.Integer(), server_default=sa.text("0"), nullable=False))
