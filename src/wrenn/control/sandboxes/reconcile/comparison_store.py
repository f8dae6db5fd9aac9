"""Statements of the comparison: a row is written only if it has not changed since it was compared."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import (
    Float,
    Text,
    Update,
    Uuid,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by

from wrenn.base.errors import AgentFailure, FilesLost
from wrenn.base.ids import HostId, SandboxId
from wrenn.control.audit import Status
from wrenn.control.db import Database, Hints, RowQuery, in_s, span_s
from wrenn.control.hosts import HostSandbox
from wrenn.control.sandboxes.reconcile.fencing import OtherRow
from wrenn.control.sandboxes.reconcile.work_store import by_system, write_result
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.state import ENDED, Desired, State, move
from wrenn.control.sandboxes.store import (
    due_when_paused,
    due_when_running,
    is_live,
    sandbox_of,
    select_sandboxes,
)
from wrenn.control.sandboxes.tables import sandboxes

_c = sandboxes.c
_KEEP_DAMAGED_S: Final = 7 * 86400.0
"""For so long a host keeps what it calls damaged and nobody else has: it may be repaired by hand."""
ACTIVITY_STEP_S: Final = 1.0
"""Times of last use nearer than this are taken as equal."""


async def live_on_host(database: Database, host_id: HostId) -> list[Sandbox]:
    """Return the sandboxes that should be, or may still be, on this host."""
    found = await database.execute(
        select_sandboxes().where(_c.host_id == host_id.value, is_live()), repeatable=True
    )
    return [sandbox_of(row) for row in found]


def _rows_digest() -> RowQuery:
    names = ("id", "version", "generation", "status", "desired", "failure", "reason", "network_revision")
    row = func.concat_ws(literal_column("'/'", Text), *(_c[name] for name in names))
    rows = func.string_agg(row, aggregate_order_by(literal_column("','", Text()), _c.id))
    return RowQuery(
        select(func.md5(rows).label("digest")).where(
            _c.host_id == bindparam("of_host", type_=Uuid), is_live()
        )
    )


_ROWS_DIGEST: Final = _rows_digest()


async def rows_digest(database: Database, host_id: HostId) -> str:
    """Return a digest of what the comparison reads of the host's live rows, but for the times of last use."""
    row = await database.find(_ROWS_DIGEST, of_host=host_id.value)
    return row.digest or ""


async def other_rows(
    database: Database, host_id: HostId, ids: Collection[SandboxId]
) -> dict[SandboxId, OtherRow]:
    """Return the rows of those of these ids that have one, as this host sees them."""
    found = await database.execute(
        select(
            _c.id,
            _c.host_id,
            _c.generation,
            _c.status.in_(sorted(ENDED)).label("has_ended"),
            and_(
                _c.status == State.ERROR,
                _c.failure == FilesLost.code,
                _c.last_updated > in_s(-_KEEP_DAMAGED_S),
            ).label("is_damaged"),
            _c.move_host_id,
            _c.move_generation,
        ).where(_c.id.in_([sandbox_id.value for sandbox_id in ids])),
        repeatable=True,
    )
    return {
        SandboxId(row.id): OtherRow(
            row.has_ended,
            row.host_id == host_id.value,
            row.generation,
            row.move_host_id == host_id.value,
            row.move_generation,
            row.is_damaged,
        )
        for row in found
    }


def _unchanged(sandbox: Sandbox) -> Sequence[Any]:
    return _c.id == sandbox.sandbox_id.value, _c.version == sandbox.version


async def record_lost(database: Database, hints: Hints, sandbox: Sandbox, reason: str) -> bool:
    """Record that the virtual machine or the files of a sandbox are lost, and that the store has nothing of it."""
    code = FilesLost.code if sandbox.status is State.PAUSED else AgentFailure.code
    values: dict[str, Any] = {
        "status": move(sandbox.status, State.ERROR),
        "failure": code,
        "reason": reason,
        "envs": {},
    }
    log = by_system("marked_error", Status.ERROR, {"code": code, "reason": reason})
    where = (*_unchanged(sandbox), _c.stored_at.is_(None))
    return await write_result(database, hints, where, values, log)


async def record_recoverable(database: Database, hints: Hints, sandbox: Sandbox, reason: str) -> bool:
    """Record that the host has lost a sandbox of which the store has a state: it is paused until it is recovered or deleted."""
    paused = {} if sandbox.status is State.PAUSED else {"status": move(sandbox.status, State.PAUSED)}
    values: dict[str, Any] = {
        **paused,
        "desired": Desired.PAUSED,
        "host_ip": "",
        "due_at": due_when_paused(),
        "failure": FilesLost.code,
        "reason": reason,
    }
    log = by_system("files_lost", Status.ERROR, {"reason": reason})
    where = (*_unchanged(sandbox), _c.stored_at.is_not(None))
    return await write_result(database, hints, where, values, log)


async def record_state(database: Database, hints: Hints, sandbox: Sandbox, state: State) -> bool:
    """Record that the host of a sandbox stopped answering, or answers again."""
    log = by_system(f"marked_{state}", Status.ERROR if state is State.MISSING else Status.SUCCESS)
    values = {"status": move(sandbox.status, state)}
    return await write_result(database, hints, _unchanged(sandbox), values, log)


async def record_suspended(database: Database, hints: Hints, sandbox: Sandbox, reason: str) -> bool:
    """Record why the host suspended the sandbox, for instance because its disk is full; without a reason, that it continues.

    The audit log and the event stream call this `held` and `released`.
    """
    log = (
        by_system("held", Status.WARNING, {"reason": reason})
        if reason
        else by_system("released", Status.SUCCESS)
    )
    return await write_result(database, hints, _unchanged(sandbox), {"reason": reason}, log)


async def record_paused(database: Database, hints: Hints, sandbox: Sandbox, seen: HostSandbox) -> bool:
    """Record that the host has the sandbox paused, though nobody waits for that pause any more.

    It stays paused until somebody resumes it, as after an idle time-out. Unless the host had lost the control plane, a reason
    means that its virtual machine ended, and it is again what it was at its last pause.
    """
    if seen.was_control_plane_lost:
        failure, cause = "", "control_plane_lost"
    elif seen.reason:
        failure, cause = "agent_error", "vm_ended"
    else:
        failure, cause = "", "answer_lost"
    asked_for = and_(_c.lift_on_pause, _c.desired == Desired.PAUSED, _c.desired_by.is_not(None))
    expires_at = case((asked_for, null()), else_=_c.expires_at)
    values: dict[str, Any] = {
        "failure": failure,
        "reason": seen.reason,
        "status": move(sandbox.status, State.PAUSED),
        "desired": Desired.PAUSED,
        "host_ip": "",
        "expires_at": expires_at,
        "due_at": due_when_paused(expires_at=expires_at),
        "platform": seen.platform.to_json(),
        # One whose virtual machine ended is what it was at its last pause.
        "paused_at": _c.paused_at if cause == "vm_ended" else func.now(),
    }
    log = by_system("pause", Status.INFO, {"cause": cause})
    return await write_result(database, hints, _unchanged(sandbox), values, log)


async def record_platform(database: Database, hints: Hints, sandbox: Sandbox, seen: HostSandbox) -> bool:
    """Record what the last pause of a paused sandbox needs to be resumed, which a replica of a former version did not."""
    return await write_result(database, hints, _unchanged(sandbox), {"platform": seen.platform.to_json()})


async def record_running_unwanted(database: Database, hints: Hints, sandbox: Sandbox) -> bool:
    """Record that the sandbox runs though it should be paused; the reconciler then pauses it.

    It takes memory, so the row says that it runs; as it is wanted paused, it is work for the reconciler at once.
    """
    values: dict[str, Any] = {
        "status": move(sandbox.status, State.RUNNING),
        "desired_at": func.now(),
        # Who wanted the pause had it: this one is the system's.
        "desired_by": null(),
        "next_attempt_at": func.now(),
    }
    log = by_system("marked_running", Status.INFO, {"cause": "answer_lost"})
    return await write_result(database, hints, _unchanged(sandbox), values, log)


def _activity() -> Update:
    used = select(
        func.unnest(bindparam("ids", type_=ARRAY(Uuid))).label("id"),
        func.to_timestamp(func.unnest(bindparam("times", type_=ARRAY(Float)))).label("at"),
    ).subquery("used")
    # The clock of a host may be fast.
    at = func.least(used.c.at, func.now())
    # Rows that somebody else changes now are left out: the next heartbeats bring later times.
    free = (
        select(_c.id, at.label("at"))
        .join(used, used.c.id == _c.id)
        .where(
            _c.host_id == bindparam("of_host", type_=Uuid),
            _c.status == State.RUNNING,
            func.coalesce(_c.last_active_at < at - span_s(ACTIVITY_STEP_S), true()),
        )
        .with_for_update(of=sandboxes, skip_locked=True, key_share=True)
        .cte("free")
    )
    return (
        update(sandboxes)
        .where(_c.id == free.c.id)
        .values(last_active_at=free.c.at, due_at=due_when_running(free.c.at))
    )


_ACTIVITY: Final = _activity()


async def record_activity(database: Database, host_id: HostId, active: Mapping[SandboxId, float]) -> None:
    """Store when sandboxes were used last, as their host reports it in Unix time; no state changes. One statement."""
    ids = list(active)
    await database.execute(
        _ACTIVITY,
        {
            "of_host": host_id.value,
            "ids": [sandbox_id.value for sandbox_id in ids],
            "times": [active[sandbox_id] for sandbox_id in ids],
        },
    )


async def record_ping(database: Database, sandbox_id: SandboxId) -> None:
    """Store that the sandbox was used now."""
    await database.execute(
        update(sandboxes)
        .where(_c.id == sandbox_id.value, _c.status == State.RUNNING)
        .values(last_active_at=func.now(), due_at=due_when_running(func.now()))
    )
