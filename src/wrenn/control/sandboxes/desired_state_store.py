"""Statements that write the desired state of sandboxes and their time limits.

Writing a desired state revokes the lease on the row: the result of the former worker will not be written, and new work may begin at
once. Of several concurrent callers one succeeds. The row names who made the request. A removal cannot fail, so
it is recorded in the audit log together with the request; a pause or resume, which a host may refuse, is recorded with its result.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    CTE,
    TIMESTAMP,
    ColumnElement,
    Integer,
    Select,
    Text,
    Update,
    and_,
    case,
    cast,
    func,
    literal,
    null,
    or_,
    select,
    update,
)

from wrenn.base.errors import InvalidState
from wrenn.base.ids import HostId, SandboxId, SnapshotId, TeamId
from wrenn.control.audit import (
    SYSTEM,
    Actor,
    AuditAction,
    Facts,
    Resource,
    Status,
    actor_json,
    record_cte,
    wire_id,
)
from wrenn.control.db import RELEASED, Database, Hints, Transaction, in_s
from wrenn.control.sandboxes.records import OnExpiry, Sandbox
from wrenn.control.sandboxes.state import Desired, State, move
from wrenn.control.sandboxes.store import (
    NOT_MOVING,
    due_when_paused,
    due_when_running,
    is_live,
    sandbox_of,
    select_sandboxes,
)
from wrenn.control.sandboxes.tables import sandboxes

_c = sandboxes.c


def update_desired(desired: Any, *conditions: Any, by: Actor) -> Update:
    """Build the UPDATE that sets the desired state of all live sandboxes that meet the conditions.

    It ends a move that a former release left behind. Not where it removes the sandbox: the target of the move removes its copy then.
    """
    ends_move: dict[str, Any] = {
        name: case((desired == Desired.STOPPED, _c[name]), else_=value) for name, value in NOT_MOVING.items()
    }
    return (
        update(sandboxes)
        .where(is_live(), *conditions)
        .values(
            desired=desired,
            desired_at=func.now(),
            desired_by=actor_json(by) or null(),
            idle_ms=0,
            keeps_memory=True,
            failure="",
            reason="",
            version=_c.version + 1,
            **ends_move,
            **RELEASED,
            attempts=0,
            next_attempt_at=func.now(),
            last_updated=func.now(),
        )
    )


def is_usable() -> ColumnElement[bool]:
    """SQL condition: the sandbox is running and should be running."""
    return and_(_c.status == State.RUNNING, _c.desired == Desired.RUNNING)


def _is_paused() -> ColumnElement[bool]:
    """SQL condition: the sandbox is paused, and is neither being resumed nor moved."""
    return and_(_c.status == State.PAUSED, _c.desired == Desired.PAUSED, _c.move_host_id.is_(None))


def _can_pause() -> ColumnElement[bool]:
    """SQL condition: the sandbox can be paused, also while an idle check of its host is in progress."""
    idle_check_pending = and_(_c.status == State.RUNNING, _c.desired == Desired.PAUSED, _c.idle_ms > 0)
    return or_(is_usable(), idle_check_pending)


def destroy_entries(wanted: CTE, by: Actor, facts: Facts, where: ColumnElement[bool] | None = None) -> CTE:
    """Build the audit log entries for sandboxes whose desired state became `stopped`."""
    action = AuditAction(Resource.SANDBOX, "destroy", Status.WARNING, facts=facts)
    return record_cte(wanted, by, action, resource_id=wire_id(SandboxId.PREFIX, wanted.c.id), where=where)


def _stop_statement(hints: Hints, selected: ColumnElement[bool], by: Actor, facts: Facts) -> Select[Any]:
    wanted = (
        update_desired(Desired.STOPPED, selected, _c.desired != Desired.STOPPED, by=by)
        .returning(_c.id, _c.team_id)
        .cte("wanted")
    )
    return select(hints.notify()).select_from(wanted).add_cte(destroy_entries(wanted, by, facts))


async def set_desired_stopped(
    database: Database, hints: Hints, ids: Collection[SandboxId], *, by: Actor, cause: str = ""
) -> None:
    """Set the desired state of these sandboxes to `stopped`, whatever it was; those that have ended stay as they are.

    `cause`: the reason, if the system requests it.
    """
    among = _c.id.in_([sandbox_id.value for sandbox_id in ids])
    await database.execute(_stop_statement(hints, among, by, {"cause": cause} if cause else {}))


async def set_desired_stopped_for_team(tx: Transaction, hints: Hints, team_id: TeamId, *, by: Actor) -> None:
    """Set the desired state of all sandboxes of a team to `stopped`, as the team is deleted."""
    theirs = _c.team_id == team_id.value
    await tx.execute(_stop_statement(hints, theirs, by, {"cause": "team_deleted"}))


async def active_on_host(tx: Transaction, host_id: HostId) -> list[SandboxId]:
    """Return the sandboxes of a host that have not ended, paused ones too, oldest first."""
    found = await tx.execute(
        select(_c.id).where(is_live(), _c.host_id == host_id.value).order_by(_c.created_at, _c.id)
    )
    return [SandboxId(row.id) for row in found]


async def count_started_on_host(tx: Transaction, host_id: HostId) -> int:
    """Count the sandboxes of a host that ran there at some time, have not ended and are not to be removed."""
    began = _c.status.in_([State.RUNNING, State.PAUSED, State.MISSING])
    found = await tx.execute(
        select(func.count()).where(began, _c.host_id == host_id.value, _c.desired != Desired.STOPPED)
    )
    return int(found.scalar_one())


async def end_on_hosts(tx: Transaction, hints: Hints, host_ids: Collection[HostId], *, by: Actor) -> None:
    """Record that the sandboxes of these hosts have ended, whatever they were: the hosts are deleted and not called again.

    Whoever holds a lease on one loses it. The idempotency key becomes free, so a repetition is a new attempt.
    """
    on_hosts = _c.host_id.in_([host_id.value for host_id in host_ids])
    ended = (
        update_desired(Desired.STOPPED, on_hosts, by=by)
        .values(status=State.STOPPED, envs={}, host_ip="", idempotency_key=None)
        .returning(_c.id, _c.team_id)
        .cte("ended")
    )
    facts: Facts = {"cause": "host_deleted"}
    await tx.execute(select(hints.notify()).select_from(ended).add_cte(destroy_entries(ended, by, facts)))


async def set_desired_stopped_for_copies(tx: Transaction, hints: Hints, snapshot_id: SnapshotId) -> None:
    """Set the desired state of all sandboxes that were restored from this snapshot to `stopped`."""
    copies = _c.snapshot_id == snapshot_id.value
    await tx.execute(_stop_statement(hints, copies, SYSTEM, {"cause": "fork_abandoned"}))


async def set_desired_paused(
    database: Database, hints: Hints, sandbox_id: SandboxId, *, by: Actor, keep_memory: bool = True
) -> bool:
    """Set the desired state of a running sandbox to `paused`; False: it is not running, or is being changed already."""
    wanted = (
        update_desired(Desired.PAUSED, _c.id == sandbox_id.value, _can_pause(), by=by)
        .values(keeps_memory=keep_memory)
        .returning(_c.id)
        .cte("wanted")
    )
    found = await database.execute(select(wanted.c.id, hints.notify()).select_from(wanted))
    return found.one_or_none() is not None


async def set_desired_paused_for_all(database: Database, hints: Hints) -> set[SandboxId]:
    """Set the desired state of every running sandbox of all teams to `paused`; returns which."""
    wanted = update_desired(Desired.PAUSED, _can_pause(), by=SYSTEM).returning(_c.id).cte("wanted")
    found = await database.execute(select(wanted.c.id, hints.notify()).select_from(wanted))
    return {SandboxId(row.id) for row in found}


async def set_desired_running(
    tx: Transaction,
    hints: Hints,
    sandbox_id: SandboxId,
    *,
    by: Actor,
    lifetime_sec: int | None = None,
    on_expiry: OnExpiry | None = None,
    keep_memory: bool = True,
) -> bool:
    """Set the desired state of a paused sandbox to `running`; False: it is not paused, or is being changed already.

    A lifetime begins: `lifetime_sec`, if it is not None, else `resume_lifetime_sec`. If there is neither, and its lifetime has ended
    with a pause (`on_expiry` "pause"), it continues without a lifetime. `on_expiry`, if it is not None, is stored in the same
    statement: with the former end, which may be past, the sandbox would be removed before it is resumed.
    """
    is_paused = _is_paused()
    ahead = or_(_c.on_expiry == "kill", _c.expires_at > func.now())
    begins = case(
        (_c.resume_lifetime_sec > 0, in_s(_c.resume_lifetime_sec)), (ahead, _c.expires_at), else_=null()
    )
    expires_at = begins if lifetime_sec is None else in_s(lifetime_sec)
    then = _c.on_expiry if on_expiry is None else literal(on_expiry)
    wanted = (
        update_desired(Desired.RUNNING, _c.id == sandbox_id.value, is_paused, by=by)
        .values(
            expires_at=expires_at,
            on_expiry=then,
            due_at=due_when_paused(then, expires_at),
            keeps_memory=keep_memory,
        )
        .returning(_c.id)
        .cte("wanted")
    )
    found = await tx.execute(select(wanted.c.id, hints.notify()).select_from(wanted))
    return found.one_or_none() is not None


async def set_moving(
    tx: Transaction,
    hints: Hints,
    sandbox_id: SandboxId,
    source: HostId,
    target: HostId,
    *,
    resumes: bool,
    pauses: bool,
    by: Actor,
) -> bool:
    """Have a paused sandbox be moved from one host to another, and with `pauses` also a running one; `resumes`: it runs afterwards.

    False: it is neither, is being changed already, or is not on `source`.
    """
    movable = or_(_is_paused(), _can_pause()) if pauses else _is_paused()
    wanted = (
        update_desired(
            Desired.PAUSED,
            _c.id == sandbox_id.value,
            _c.host_id == source.value,
            _c.host_id != target.value,
            movable,
            by=by,
        )
        .values(move_host_id=target.value, move_resumes=resumes)
        .returning(_c.id)
        .cte("wanted")
    )
    found = await tx.execute(select(wanted.c.id, hints.notify()).select_from(wanted))
    return found.one_or_none() is not None


async def set_recovering(
    tx: Transaction, hints: Hints, sandbox_id: SandboxId, source: HostId, target: HostId, *, by: Actor
) -> bool:
    """Have a paused or missing sandbox of a host that is lost be started on another one, from what the store has of it.

    False: it is neither, is being changed already, is not on `source`, or the store has nothing of it.
    """
    is_missing = and_(_c.status == State.MISSING, _c.desired == Desired.RUNNING)
    wanted = (
        update_desired(
            Desired.PAUSED,
            _c.id == sandbox_id.value,
            _c.host_id == source.value,
            _c.stored_image_id.is_not(None),
            _c.stored_at.is_not(None),
            or_(_is_paused(), is_missing),
            by=by,
        )
        .values(
            status=case((is_missing, move(State.MISSING, State.PAUSED)), else_=_c.status),
            host_ip="",
            move_host_id=target.value,
            move_resumes=True,
            recovery_at=func.now(),
        )
        .returning(_c.id)
        .cte("wanted")
    )
    found = await tx.execute(select(wanted.c.id, hints.notify()).select_from(wanted))
    return found.one_or_none() is not None


async def lock(tx: Transaction, sandbox_id: SandboxId) -> tuple[Sandbox, datetime] | None:
    """Return the sandbox, locked until this transaction ends, and the database's time; None: there is no such sandbox."""
    found = await tx.execute(
        select_sandboxes()
        .add_columns(func.now().label("at"))
        .where(_c.id == sandbox_id.value)
        .with_for_update()
    )
    row = found.one_or_none()
    return None if row is None else (sandbox_of(row), row.at)


async def lock_to_change(tx: Transaction, sandbox_id: SandboxId, *, only: str) -> Sandbox:
    """Lock a sandbox that is running or paused, so that its configuration can be changed.

    Raises:
        InvalidState: it is neither; `only` ends the message: "only the disk of …".
    """
    locked = await lock(tx, sandbox_id)
    assert locked is not None, "rows are kept"
    now, _ = locked
    if now.status not in (State.RUNNING, State.PAUSED) or now.desired is Desired.STOPPED:
        raise InvalidState(f"Sandbox {sandbox_id} is {now.state_text}: only {only}.")
    return now


async def write_limits(
    tx: Transaction,
    hints: Hints,
    sandbox_id: SandboxId,
    *,
    timeout_sec: int,
    expires_at: datetime | None,
    on_expiry: OnExpiry,
    lift_on_pause: bool,
    by: Actor | None,
) -> Sandbox:
    """Store new time limits; the state does not change. `by` None: no entry in the audit log."""
    expiry = cast(expires_at, TIMESTAMP(timezone=True))
    changed = (
        update(sandboxes)
        .where(_c.id == sandbox_id.value)
        .values(
            timeout_sec=timeout_sec,
            expires_at=expires_at,
            on_expiry=on_expiry,
            lift_on_pause=lift_on_pause,
            due_at=case(
                (_c.status == State.PAUSED, due_when_paused(cast(on_expiry, Text), expiry)),
                else_=due_when_running(_c.last_active_at, cast(timeout_sec, Integer), expiry),
            ),
            last_updated=func.now(),
        )
        .returning(_c.id, _c.team_id)
        .cte("changed")
    )
    await tx.execute(
        select(changed.c.id).add_cte(*_limits_entry(changed, by, timeout_sec, expires_at, on_expiry))
    )
    found = await tx.execute(select_sandboxes().add_columns(hints.notify()).where(_c.id == sandbox_id.value))
    return sandbox_of(found.one())


def _limits_entry(
    changed: CTE, by: Actor | None, timeout_sec: int, expires_at: datetime | None, on_expiry: OnExpiry
) -> list[CTE]:
    if by is None:
        return []
    facts: dict[str, str | int] = {"timeout_sec": timeout_sec, "on_expiry": on_expiry}
    if expires_at is not None:
        facts["expires_at"] = expires_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    action = AuditAction(Resource.SANDBOX, "set_timeout", Status.INFO, facts=facts)
    return [record_cte(changed, by, action, resource_id=wire_id(SandboxId.PREFIX, changed.c.id))]
