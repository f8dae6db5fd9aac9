"""Statements on events.

Rows become visible when their transaction commits, not in the order of their ids. Only what is behind no running transaction
is read ("settled"), in the order of transactions: so nothing can appear before what was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Row, Text, cast, delete, func, literal, select, true, tuple_
from sqlalchemy.dialects.postgresql import insert as upsert

from wrenn.base.ids import TeamId
from wrenn.control.audit import Scope
from wrenn.control.db import Database, in_s
from wrenn.control.events.records import Audience, Event, Position
from wrenn.control.events.tables import events, events_pruned

CHANNEL: Final = "wrenn_events"
"""On which a trigger notifies of new rows."""

_c = events.c
_p = events_pruned.c


def _number(transaction: ColumnElement[Any]) -> ColumnElement[int]:
    return cast(cast(transaction, Text), BigInteger)


_OLDEST: Final = _number(func.pg_snapshot_xmin(func.pg_current_snapshot()))
"""Of all transactions that run."""


def _behind(position: Position) -> ColumnElement[bool]:
    return tuple_(_c.txid, _c.id) > tuple_(
        literal(position.txid, BigInteger), literal(position.number, BigInteger)
    )


def _event(row: Row[Any]) -> Event:
    return Event(
        position=Position(row.txid, row.id),
        team_id=TeamId(row.team_id),
        scope=Scope(row.scope),
        kind=row.type,
        resource_id=row.resource_id,
        facts=row.data,
        at=row.created_at,
    )


async def now(database: Database) -> Position:
    """Return the position after all settled events."""
    return Position((await database.execute(select(_OLDEST), repeatable=True)).scalar_one(), 0)


async def read(database: Database, after: Position, *, limit: int) -> tuple[list[Event], bool]:
    """Return up to `limit` settled events of all teams after a position, and whether there are unsettled ones."""
    found = await database.execute(
        select(events, (_c.txid < _OLDEST).label("settled"))
        .where(_behind(after))
        .order_by(_c.txid, _c.id)
        .limit(limit),
        repeatable=True,
    )
    rows = found.all()
    settled = [_event(row) for row in rows if row.settled]
    return settled, len(settled) < len(rows)


async def read_for(database: Database, audience: Audience, after: Position, *, limit: int) -> list[Event]:
    """Return up to `limit` settled events of one team after a position."""
    found = await database.execute(
        select(events)
        .where(
            _behind(after),
            _c.txid < _OLDEST,
            _c.team_id == audience.team_id.value,
            _c.scope.in_(sorted(audience.scopes)),
        )
        .order_by(_c.txid, _c.id)
        .limit(limit),
        repeatable=True,
    )
    return [_event(row) for row in found]


async def has_all_behind(database: Database, position: Position) -> bool:
    """Whether all events after the position are still stored. False also for an unknown position."""
    pruned = select(_p.txid, _p.id).subquery()
    row = (
        await database.execute(
            select(_OLDEST.label("oldest"), pruned.c.txid, pruned.c.id).select_from(
                select(true()).subquery().outerjoin(pruned, true())
            ),
            repeatable=True,
        )
    ).one()
    forgotten = Position(row.txid, row.id) if row.txid is not None else Position(0, 0)
    return forgotten <= position and position.txid <= row.oldest


async def prune(database: Database, *, older_than_s: float, most: int) -> int:
    """Delete up to `most` events that are older than this; returns how many."""
    # A CTE is evaluated once; a subquery may be evaluated again for each row, and then returns others each time.
    old = (
        select(_c.id)
        .where(_c.created_at < in_s(-older_than_s))
        .order_by(_c.created_at)
        .limit(most)
        .with_for_update(skip_locked=True)
        .cte("old")
        .prefix_with("MATERIALIZED")
    )
    gone = delete(events).where(_c.id.in_(select(old.c.id))).returning(_c.txid, _c.id).cte("gone")
    last = select(true(), gone.c.txid, gone.c.id).order_by(gone.c.txid.desc(), gone.c.id.desc()).limit(1)
    row = upsert(events_pruned).from_select(["one_row", "txid", "id"], last)
    marked = row.on_conflict_do_update(
        index_elements=["one_row"],
        set_={"txid": row.excluded.txid, "id": row.excluded.id},
        where=tuple_(row.excluded.txid, row.excluded.id) > tuple_(_p.txid, _p.id),
    ).cte("marked")
    counted = select(func.count()).select_from(gone).add_cte(marked)
    return (await database.execute(counted)).scalar_one()


async def drop_foreign(database: Database) -> None:
    """Delete events that another server wrote: a copied database keeps their transaction numbers, which are meaningless here."""
    ours = _number(func.pg_current_xact_id())
    await database.execute(delete(events).where(_c.txid > ours))
    await database.execute(delete(events_pruned).where(_p.txid > ours))


def last_of(found: Sequence[Event], before: Position) -> Position:
    """Return the position of the last event; `before` if there are none."""
    return found[-1].position if found else before
