"""Statements on the sandboxes of a host that is drained."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, String, and_, case, func, literal, or_, select, update

from wrenn.base.errors import WrennError
from wrenn.base.ids import HostId, SandboxId
from wrenn.control.audit import SYSTEM
from wrenn.control.db import Database, Hints, Transaction, in_s
from wrenn.control.sandboxes.desired_state_store import is_usable, update_desired
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.state import Desired, State
from wrenn.control.sandboxes.store import is_live, sandbox_of, select_sandboxes
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
    (_c.move_host_id.is_not(None), literal("moving", String)),
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


def _is_movable() -> ColumnElement[bool]:
    """SQL condition: the sandbox runs, and not for a build, or is paused; and nothing is being done to it."""
    is_running = and_(is_usable(), _c.build_id.is_(None))
    return or_(
        is_running,
        and_(_c.status == State.PAUSED, _c.desired == Desired.PAUSED, _c.move_host_id.is_(None)),
    )


async def count_untried(database: Database, host_id: HostId) -> int:
    """Count the paused sandboxes of a host of which it is not known that they cannot be moved."""
    found = await database.execute(
        select(func.count()).where(
            _c.host_id == host_id.value,
            _c.status == State.PAUSED,
            _is_movable(),
            _c.failure == "",
        ),
        repeatable=True,
    )
    return found.scalar_one()


async def next_to_move(database: Database, host_id: HostId, *, at_once: int) -> list[Sandbox]:
    """Return sandboxes of a host to be moved next, until so many are being moved. One that could not be moved is left alone for a while."""
    moving = (
        select(func.count())
        .where(_c.host_id == host_id.value, is_live(), _c.move_host_id.is_not(None))
        .scalar_subquery()
    )
    failed_at = func.coalesce(_c.desired_at, _c.created_at)
    may_try = or_(_c.failure == "", failed_at <= in_s(-_TRY_AGAIN_S))
    found = await database.execute(
        select_sandboxes()
        .where(_c.host_id == host_id.value, is_live(), _is_movable(), may_try)
        .order_by(_c.failure != "", _c.created_at, _c.id)
        .limit(func.greatest(0, at_once - moving)),
        repeatable=True,
    )
    return [sandbox_of(row) for row in found]


async def set_moving(tx: Transaction, hints: Hints, sandbox: Sandbox, host_id: HostId) -> bool:
    """Have a sandbox of a draining host be moved to this host; False: it has changed."""
    runs = sandbox.status is State.RUNNING
    wanted = (
        update_desired(
            Desired.PAUSED,
            _c.id == sandbox.sandbox_id.value,
            _c.version == sandbox.version,
            _is_movable(),
            by=SYSTEM,
        )
        .values(reason=_REASON, move_host_id=host_id.value, move_resumes=runs)
        .returning(_c.id)
        .cte("wanted")
    )
    found = await tx.execute(select(wanted.c.id, hints.notify()).select_from(wanted))
    return found.one_or_none() is not None


async def note_not_moved(database: Database, hints: Hints, sandbox: Sandbox, error: WrennError) -> None:
    """Record why no host can take a sandbox of a draining host, unless it has changed."""
    noted = (
        update(sandboxes)
        .where(_c.id == sandbox.sandbox_id.value, _c.version == sandbox.version, _is_movable())
        .values(
            failure=error.code,
            reason=error.message,
            desired_at=func.now(),
            version=_c.version + 1,
            last_updated=func.now(),
        )
        .returning(_c.id)
        .cte("noted")
    )
    await database.execute(select(noted.c.id, hints.notify()).select_from(noted))


async def failed(
    database: Database, host_id: HostId, *, limit: int, paused: bool
) -> list[tuple[SandboxId, str, str]]:
    """Return running sandboxes of a host that could not be paused or moved when that was tried last, with code and reason.

    `paused`: and paused ones that could not be moved.
    """
    which = _is_movable() if paused else is_usable()
    found = await database.execute(
        select(_c.id, _c.failure, _c.reason)
        .where(_c.host_id == host_id.value, is_live(), which, _c.failure != "")
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
