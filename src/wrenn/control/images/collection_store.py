"""Statements on the owners whose garbage in the store is to be collected. Time is the database's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, case, delete, exists, func, null, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from wrenn.base.ids import TeamId
from wrenn.control.db import Database, Transaction, in_s, span_s
from wrenn.control.images.records import owner_name
from wrenn.control.images.tables import image_collections

_c = image_collections.c
_OVERDUE_S: Final = 1800.0
"""What may wait is not uploaded for an owner any more that could not be collected for so long."""


async def request(tx: Transaction, owners: Sequence[TeamId | None]) -> None:
    """Have these owners collected; None: the platform."""
    for team_id in owners:
        # The time of the statement: that of the transaction may be before the begin of a collection that is under way.
        requested = {"requested_at": func.clock_timestamp()}
        await _write(tx, team_id, inserted=requested, updated=requested)


async def take_due(database: Database, *, again_s: float) -> list[str]:
    """Return owners that are to be collected, which are not due again for `again_s`, on any replica."""
    found = await database.execute(
        update(image_collections)
        .where(_c.requested_at.is_not(None), _c.attempt_at <= func.now())
        .values(attempt_at=in_s(again_s))
        .returning(_c.owner)
    )
    return sorted(row.owner for row in found)


async def note_collected(database: Database, owner: str, *, since: datetime) -> None:
    """Store that a collection that began at this time has come to its end."""
    is_done = _c.requested_at <= since
    await database.execute(
        update(image_collections)
        .where(_c.owner == owner)
        .values(requested_at=case((is_done, null()), else_=_c.requested_at), blocked_since=None)
    )


async def note_blocked(tx: Transaction, team_id: TeamId | None) -> None:
    """Store that an owner could not be collected, as an image of it is being uploaded."""
    updated = {
        "requested_at": func.coalesce(_c.requested_at, func.clock_timestamp()),
        "blocked_since": func.coalesce(_c.blocked_since, func.now()),
    }
    inserted = {"requested_at": func.clock_timestamp(), "blocked_since": func.now()}
    await _write(tx, team_id, inserted=inserted, updated=updated)


async def note_failed(database: Database, owner: str) -> None:
    """Store that an owner could not be collected for another reason than its uploads, which need not wait for that."""
    await database.execute(update(image_collections).where(_c.owner == owner).values(blocked_since=None))


async def drop(database: Database, owner: str) -> None:
    """Do not collect an owner until that is requested again: trying again would not help."""
    await database.execute(delete(image_collections).where(_c.owner == owner))


async def delete_done(database: Database) -> None:
    """Delete the rows of owners that need no collection."""
    await database.execute(delete(image_collections).where(_c.requested_at.is_(None)))


def is_overdue(team_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """SQL condition: the garbage of this team (NULL: the platform) could not be collected for long, so what may wait is not uploaded for it."""
    return exists(
        select(_c.owner).where(
            _c.team_id.is_not_distinct_from(team_id), _c.blocked_since < func.now() - span_s(_OVERDUE_S)
        )
    )


async def _write(
    tx: Transaction, team_id: TeamId | None, *, inserted: dict[str, Any], updated: dict[str, Any]
) -> None:
    row = {"owner": owner_name(team_id), "team_id": None if team_id is None else team_id.value}
    await tx.execute(
        upsert(image_collections)
        .values(**row, **inserted)
        .on_conflict_do_update(index_elements=[_c.owner], set_=updated)
    )
