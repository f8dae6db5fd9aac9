"""How a key is looked up: parts of a query, so that a feature may read the key and its own row in one round trip."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BindParameter, ColumnElement, FromClause, and_, bindparam, select

from wrenn.control.db import Database, RowQuery
from wrenn.control.keys import team_api_keys as keys
from wrenn.control.teams import teams

KEY_TEAM_ID: Final = keys.c.team_id
KEY_COLUMNS: Final = (
    keys.c.id.label("key_id"),
    keys.c.name.label("key_name"),
    keys.c.team_id.label("key_team_id"),
)


def key_and_team() -> FromClause:
    """Keys with their teams."""
    return keys.join(teams, teams.c.id == keys.c.team_id)


def key_matches(key_hash: str | BindParameter[str]) -> ColumnElement[bool]:
    """True for the key of this hash, unless its team is deleted."""
    return and_(keys.c.key_hash == key_hash, teams.c.deleted_at.is_(None))


_KEY: Final = RowQuery(
    select(*KEY_COLUMNS).select_from(key_and_team()).where(key_matches(bindparam("key_hash")))
)


async def find_key(database: Database, key_hash: str) -> Any:
    """The `KEY_COLUMNS` of the key of this hash, if it is valid; else None."""
    return await database.find(_KEY, key_hash=key_hash)
