"""Statements on counted attempts. Times are the database's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Float, case, cast, delete, extract, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from wrenn.control.db import Database, Transaction, in_s, span_s
from wrenn.control.throttle.tables import attempts

if TYPE_CHECKING:
    from wrenn.control.throttle.throttle import ThrottlePolicy

_c = attempts.c
# Not the time of the attempt: a transaction that began earlier and waited for the row would then be refused as too early.
_NOT_BLOCKED = func.to_timestamp(0)


async def count(tx: Transaction, subject: str, policy: ThrottlePolicy) -> float | None:
    """Count an attempt; returns None if it was counted, or how many seconds to wait if it comes too soon.

    Each attempt counts as failed until `clear` or `uncount` is called, so that concurrent guesses cannot exceed the free ones.
    """
    number = case((_c.last_at < func.now() - span_s(policy.forget_s), 1), else_=_c.count + 1)
    # Bounded, because the power of a long series would overflow.
    beyond = func.least(number - policy.free - 1, 30)
    wait = func.least(
        cast(literal(policy.first_wait_s), Float) * func.power(2.0, beyond), policy.longest_wait_s
    )
    counted = await tx.execute(
        upsert(attempts)
        .values(subject=subject, count=1, blocked_until=_NOT_BLOCKED)
        .on_conflict_do_update(
            index_elements=["subject"],
            set_={
                "count": number,
                "last_at": func.now(),
                "blocked_until": case((number > policy.free, in_s(wait)), else_=_NOT_BLOCKED),
            },
            where=_c.blocked_until <= func.now(),
        )
        .returning(_c.count)
    )
    if counted.one_or_none() is not None:
        return None
    left = await tx.execute(
        select(extract("epoch", _c.blocked_until - func.now())).where(_c.subject == subject)
    )
    return float(left.scalar_one_or_none() or 0)


async def clear(tx: Transaction, subject: str) -> None:
    """Delete all counted attempts of a subject."""
    await tx.execute(delete(attempts).where(_c.subject == subject))


async def uncount(tx: Transaction, subject: str, policy: ThrottlePolicy) -> None:
    """Uncount one attempt."""
    left = _c.count - 1
    await tx.execute(
        update(attempts)
        .where(_c.subject == subject, _c.count > 0)
        .values(count=left, blocked_until=case((left <= policy.free, _NOT_BLOCKED), else_=_c.blocked_until))
    )


async def forget_old(database: Database, *, older_s: float) -> None:
    """Delete subjects without an attempt for `older_s`."""
    await database.execute(delete(attempts).where(_c.last_at < func.now() - span_s(older_s)))
