"""Table of the secret with which links are signed: one row, the same for all replicas."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, LargeBinary, SmallInteger, Table, text

from wrenn.control.db import metadata

link_secrets = Table(
    "link_secrets",
    metadata,
    Column("id", SmallInteger, primary_key=True, server_default=text("1"), autoincrement=False),
    Column("secret", LargeBinary, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)
