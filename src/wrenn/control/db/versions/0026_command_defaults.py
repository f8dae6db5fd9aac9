"""User and working directory of commands in a sandbox, from its template.

Revision ID: 0026
Revises: 0025
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sandboxes", sa.Column("default_user", sa.Text(), server_default="root", nullable=False))
    op.add_column("sandboxes", sa.Column("working_dir", sa.Text(), server_default="", nullable=False))
