"""How the ports of sandboxes are visited: whether all are public, and which `Host` programs get.

Revision ID: 0046
Revises: 0045
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0046"
down_revision = "0045"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A replica of the version before does not know them: visits through it need a credential, and get the visitor's host.
    op.add_column(
        "sandboxes", sa.Column("all_ports_public", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.add_column("sandboxes", sa.Column("request_host", sa.Text(), nullable=False, server_default=""))
