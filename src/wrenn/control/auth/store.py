"""How a key is looked up: parts of a query, so that a feature may read the key and its own row in one round trip."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, FromClause, Row, and_, select

from wrenn.control.db import Database
from wrenn.control.keys import team_api_keys as keys
from wrenn.control.teams import teams

KEY_COLUMNS: Final = (keys.c.id.label("key_id"), keys.c.team_id.label("key_team_id"))


def key_and_team() -> FromClause:
    """Keys with their teams."""
    return keys.join(teams, teams.c.id == keys.c.team_id)


def key_matches(key_hash: str) -> ColumnElement[bool]:
    """True for the key of this hash, unless its team is deleted."""
    return and_(keys.c.key_hash == key_hash, teams.c.deleted_at.is_(None))


async def find_key(database: Database, key_hash: str) -> Row[Any] | None:
    """The `KEY_COLUMNS` of the key of this hash, if it is valid."""
    query = select(*KEY_COLUMNS).select_from(key_and_team()).where(key_matches(key_hash))
    return (await database.execute(query, repeatable=True)).one_or_none()
