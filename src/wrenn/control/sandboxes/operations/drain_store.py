"""Statements on the sandboxes of a host that is drained."""

from __future__ import annotations

from typing import Final

from sqlalchemy import String, and_, case, func, literal, or_, select

from wrenn.base.ids import HostId, SandboxId
from wrenn.control.audit import SYSTEM
from wrenn.control.db import Database, Hints, Transaction, in_s
from wrenn.control.sandboxes.desired_state_store import is_usable, update_desired
from wrenn.control.sandboxes.state import Desired, State
from wrenn.control.sandboxes.store import is_live
from wrenn.control.sandboxes.tables import sandboxes

_c = sandboxes.c

_LOCK: Final = 0x647261696E
"""Advisory lock of the replica that has sandboxes of draining hosts paused ("drain" in ASCII)."""
_TRY_AGAIN_S: Final = 10.0
"""After a sandbox could not be paused."""
_REASON: Final = "Its host is being drained."

_PHASE: Final = case(
    (_c.desired == Desired.STOPPED, literal("stopping", String)),
    (_c.status == State.MISSING, literal("missing", String)),
    (and_(_c.status == State.RUNNING, _c.desired == Desired.PAUSED), literal("pausing", String)),
    (_c.status == State.RUNNING, literal("running", String)),
    (and_(_c.status == State.PAUSED, _c.desired == Desired.PAUSED), literal("paused", String)),
    else_=literal("starting", String),
).label("phase")


async def count_phases(database: Database, host_id: HostId) -> dict[str, int]:
    """Count the live sandboxes of a host by what becomes of them; each is counted once."""
    phases = select(_PHASE).where(_c.host_id == host_id.value, is_live()).subquery()
    found = await database.execute(
        select(phases.c.phase, func.count().label("live")).group_by(phases.c.phase), repeatable=True
    )
    return {row.phase: row.live for row in found}


async def not_paused(database: Database, host_id: HostId, *, limit: int) -> list[tuple[SandboxId, str, str]]:
    """Return running sandboxes of a host that could not be paused when that was tried last, with code and reason."""
    found = await database.execute(
        select(_c.id, _c.failure, _c.reason)
        .where(_c.host_id == host_id.value, is_usable(), _c.failure != "")
        .order_by(_c.created_at, _c.id)
        .limit(limit),
        repeatable=True,
    )
    return [(SandboxId(row.id), row.failure, row.reason) for row in found]


async def try_lock(tx: Transaction) -> bool:
    """Take the lock of `set_desired_paused_on_host` until this transaction ends; False: another replica has it."""
    return bool((await tx.execute(select(func.pg_try_advisory_xact_lock(_LOCK)))).scalar_one())


async def set_desired_paused_on_host(tx: Transaction, hints: Hints, host_id: HostId, *, at_once: int) -> bool:
    """Set the desired state of running sandboxes of a host to `paused`, until so many are being paused; False: of none.

    One that could not be paused is left alone for a while, and comes after the others. Under the lock: two replicas would
    not see what the other does.
    """
    pausing = (
        select(func.count())
        .where(_c.host_id == host_id.value, is_live(), _PHASE == "pausing")
        .scalar_subquery()
    )
    # Not `last_updated`, which users move on with each change of time limits, network or disk.
    failed_at = func.coalesce(_c.desired_at, _c.created_at)
    may_try = or_(_c.failure == "", failed_at <= in_s(-_TRY_AGAIN_S))
    # What somebody else changes just now is met the next time; so this waits for no lock, and no other for two of its.
    # A CTE is evaluated once; of a subquery with locks the planner may take the first rows again for each row.
    next_ones = (
        select(_c.id)
        .where(_c.host_id == host_id.value, is_live(), is_usable(), may_try)
        .order_by(_c.failure != "", _c.created_at, _c.id)
        .limit(func.greatest(0, at_once - pausing))
        .with_for_update(skip_locked=True)
        .cte("next_ones")
    )
    wanted = (
        update_desired(Desired.PAUSED, _c.id.in_(select(next_ones.c.id)), is_usable(), by=SYSTEM)
        .values(reason=_REASON)
        .returning(_c.id)
        .cte("wanted")
    )
    found = await tx.execute(select(wanted.c.id, hints.notify()).select_from(wanted))
    return bool(found.all())
