"""How often the certificates of a host had been withdrawn when it was given a refresh token.

Revision ID: 0059
Revises: 0058
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0059"
down_revision = "0058"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("host_refresh_tokens", sa.Column("cert_epoch", sa.Integer(), nullable=True))
