"""Statements on sandboxes that have expired."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Select, and_, case, cast, func, literal, not_, or_, select

from wrenn.control.audit import SYSTEM
from wrenn.control.db import Database, Hints
from wrenn.control.sandboxes.desired_state_store import destroy_entries, is_usable, update_desired
from wrenn.control.sandboxes.state import Desired, State
from wrenn.control.sandboxes.store import is_live
from wrenn.control.sandboxes.tables import sandboxes

_c = sandboxes.c


def expired_statement(hints: Hints) -> Select[Any, None]:
    """Build the statement of `set_desired_for_expired`; it may be executed any number of times.

    The last activity in the row may be outdated, so the host checks again before it pauses an idle sandbox (`idle_ms`).
    """
    expired = _c.expires_at <= func.now()
    # A caller requested a pause, which will remove the lifetime of a sandbox with `lift_on_pause`.
    manual_pause_pending = and_(
        _c.lift_on_pause, _c.desired == Desired.PAUSED, _c.status == State.RUNNING, _c.idle_ms == 0
    )
    killed = and_(_c.on_expiry == "kill", expired, not_(manual_pause_pending))
    due = (
        update_desired(
            case((killed, literal(Desired.STOPPED.value)), else_=literal(Desired.PAUSED.value)),
            _c.due_at <= func.now(),
            _c.desired != Desired.STOPPED,
            or_(is_usable(), and_(killed, _c.status.in_([State.RUNNING, State.PAUSED, State.MISSING]))),
            by=SYSTEM,
        )
        .values(
            idle_ms=case((expired, 0), else_=cast(_c.timeout_sec, BigInteger) * 1000),
            keeps_memory=_c.keep_memory_on_pause,
        )
        .returning(_c.id, _c.team_id, _c.desired)
        .cte("due")
    )
    ended = destroy_entries(due, SYSTEM, {"cause": "expired"}, where=due.c.desired == Desired.STOPPED)
    return select(due.c.id, hints.notify()).select_from(due).add_cte(ended)


async def set_desired_for_expired(database: Database, statement: Select[Any, None]) -> int:
    """Set every sandbox whose idle time or lifetime is over to be paused or stopped; returns how many."""
    return len((await database.execute(statement)).all())


def _next_due() -> Select[Any]:
    # As in the statement above: a row that it leaves alone must not be due again and again.
    removed_when_due = and_(
        _c.status == State.PAUSED,
        _c.desired != Desired.STOPPED,
        _c.on_expiry == "kill",
        _c.due_at >= _c.expires_at,
    )
    return select(func.extract("epoch", func.min(_c.due_at) - func.now())).where(
        _c.due_at.is_not(None), is_live(), or_(is_usable(), removed_when_due)
    )


_NEXT_DUE: Final = _next_due()


async def next_due_s(database: Database) -> float | None:
    """Return in how many seconds the next sandbox expires, 0 or less if one has expired already; None: none will."""
    seconds = (await database.execute(_NEXT_DUE, repeatable=True)).scalar_one()
    return None if seconds is None else float(seconds)
