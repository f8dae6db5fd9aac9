"""Statements on the secret of links."""

from __future__ import annotations

import secrets
from typing import Final

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from wrenn.control.db import Database
from wrenn.control.proxy.tables import link_secrets

_SECRET_B: Final = 32


async def link_secret(database: Database) -> bytes:
    """Return the secret of this installation, creating it if there is none."""
    await database.execute(
        insert(link_secrets).values(id=1, secret=secrets.token_bytes(_SECRET_B)).on_conflict_do_nothing()
    )
    return (await database.execute(select(link_secrets.c.secret), repeatable=True)).scalar_one()
