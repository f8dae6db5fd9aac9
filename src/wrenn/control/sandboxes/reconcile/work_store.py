"""Statements of the reconciler: leases, and results that are written only while the lease is held.

Time is the database's, so replicas with different clocks agree on leases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    CTE,
    Boolean,
    ColumnElement,
    Float,
    Uuid,
    all_,
    and_,
    bindparam,
    case,
    func,
    not_,
    null,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.dml import ReturningUpdate

from wrenn.base.errors import WrennError
from wrenn.base.ids import HostId, ImageId, SandboxId, SnapshotId, TeamId
from wrenn.control.audit import SYSTEM, AuditAction, Facts, Resource, Status, record_cte, wire_id
from wrenn.control.db import RELEASED, Database, Hints, Leases, Transaction, in_s
from wrenn.control.hosts import HostEndpoint, HostSandbox, HostSteps, hosts
from wrenn.control.sandboxes.records import NetworkPolicy, Origin, Spec, Work
from wrenn.control.sandboxes.state import Desired, State, move
from wrenn.control.sandboxes.store import NOT_MOVING, due_when_paused, due_when_running
from wrenn.control.sandboxes.tables import sandboxes

_c = sandboxes.c
_ASK_AGAIN_S: Final = 0.2
_CLOCKS_DIFFER_S: Final = 2.0
_TRY_AGAIN_S: Final = 10.0
"""After a host could not pause an idle sandbox."""
LEASES: Final = Leases(sandboxes)


@dataclass(frozen=True, slots=True)
class Busy:
    """For whom no further work of a kind is leased: hosts, teams, and teams on one of their hosts."""

    hosts: frozenset[HostId] = frozenset()
    teams: frozenset[TeamId] = frozenset()
    teams_on_hosts: frozenset[tuple[HostId, TeamId]] = frozenset()


@dataclass(frozen=True, slots=True)
class WorkSlots:
    """How many sandboxes may be leased, and for what.

    Attributes:
        removals, moves, others: for that, but not for these hosts and teams; None: not for that. Moves take as long as their
            data takes.
    """

    limit: int
    removals: Busy | None = None
    others: Busy | None = None
    moves: Busy | None = None


def _is_move() -> ColumnElement[bool]:
    return and_(_c.status == State.PAUSED, _c.move_host_id.is_not(None), _c.desired != Desired.STOPPED)


def _is_open(kind: str, *host_ids: ColumnElement[Any]) -> ColumnElement[bool]:
    """SQL condition: there is a slot for work of this kind by these hosts, as `_slot_values` says."""

    def ids(name: str) -> ColumnElement[Any]:
        return bindparam(f"{kind}_{name}", type_=ARRAY(Uuid))

    pairs = select(func.unnest(ids("pair_hosts")), func.unnest(ids("pair_teams")))
    return and_(
        bindparam(kind, type_=Boolean),
        *(host_id != all_(ids("hosts")) for host_id in host_ids),
        _c.team_id != all_(ids("teams")),
        tuple_(_c.host_id, _c.team_id).not_in(pairs),
    )


def _slot_values(kind: str, busy: Busy | None) -> dict[str, Any]:
    not_for = busy or Busy()
    pairs = list(not_for.teams_on_hosts)
    return {
        kind: busy is not None,
        f"{kind}_hosts": [host_id.value for host_id in not_for.hosts],
        f"{kind}_teams": [team_id.value for team_id in not_for.teams],
        f"{kind}_pair_hosts": [host_id.value for host_id, _ in pairs],
        f"{kind}_pair_teams": [team_id.value for _, team_id in pairs],
    }


def _take_due() -> ReturningUpdate[*tuple[Any, ...]]:
    # A CTE is evaluated once. A subquery may be evaluated for each row of the table, and then returns other rows each time,
    # as it leaves out those that this statement has changed: more would be leased than asked for.
    due = (
        select(_c.id)
        .where(
            or_(
                _c.status.in_([State.PENDING, State.STARTING]),
                and_(_c.status.in_([State.RUNNING, State.PAUSED]), _c.desired != _c.status),
                and_(_c.status == State.MISSING, _c.desired == Desired.STOPPED),
                _is_move(),
            ),
            or_(_is_open("removals", _c.host_id), _c.desired != Desired.STOPPED),
            or_(_is_open("others", _c.host_id), _c.desired == Desired.STOPPED, _is_move()),
            or_(_is_open("moves", _c.host_id, _c.move_host_id), not_(_is_move())),
            _c.next_attempt_at <= func.now(),
            LEASES.is_free(),
        )
        .order_by(_c.desired != Desired.STOPPED, _c.next_attempt_at)
        .limit(bindparam("most"))
        .with_for_update(skip_locked=True)
        .cte("due")
        .prefix_with("MATERIALIZED")
    )
    target = hosts.alias("target")
    target_address, target_epoch = (
        select(column).where(target.c.id == _c.move_host_id).scalar_subquery()
        for column in (target.c.address, target.c.cert_epoch)
    )
    starts = and_(_c.status == State.PENDING, _c.desired == Desired.RUNNING)
    return (
        update(sandboxes)
        .where(_c.id.in_(select(due.c.id)), hosts.c.id == _c.host_id)
        .values(
            status=case((starts, move(State.PENDING, State.STARTING)), else_=_c.status),
            **LEASES.grant(bindparam("owner"), bindparam("lease_s", type_=Float)),
            attempts=_c.attempts + 1,
            version=_c.version + 1,
        )
        .returning(
            *(
                _c[name]
                for name in (
                    "id", "team_id", "status", "desired", "template", "image", "snapshot_id", "vcpus", "memory_mb",
                    "envs", "network", "network_revision", "disk_size_mb", "idle_ms", "keeps_memory", "attempts", "version",
                    "generation",
                    "host_tags", "template_id", "move_host_id", "move_resumes",
                )
            ),
            case((_c.recovery_at == _c.desired_at, _c.stored_image_id), else_=null()).label("recover_from"),
            _c.host_id,
            hosts.c.address,
            hosts.c.cert_epoch,
            target_address.label("target_address"),
            target_epoch.label("target_epoch"),
            func.extract("epoch", func.now() - func.coalesce(_c.desired_at, _c.created_at)).label("age_s"),
        )
    )  # fmt: skip


_TAKE_DUE: Final = _take_due()


async def take_due(database: Database, *, owner: str, lease_s: float, slots: WorkSlots) -> list[Work]:
    """Lease sandboxes that are due and that nobody else has leased; those to be removed come first."""
    values = {
        "owner": owner,
        "lease_s": lease_s,
        "most": slots.limit,
        **_slot_values("removals", slots.removals),
        **_slot_values("others", slots.others),
        **_slot_values("moves", slots.moves),
    }
    found = await database.execute(_TAKE_DUE, values)
    return [
        Work(
            sandbox_id=SandboxId(row.id),
            team_id=TeamId(row.team_id),
            host=HostEndpoint(HostId(row.host_id), row.address, row.cert_epoch),
            status=State(row.status),
            desired=Desired(row.desired),
            spec=Spec(
                row.template,
                row.vcpus,
                row.memory_mb,
                row.envs,
                network=NetworkPolicy.from_json(row.network),
                disk_size_mb=row.disk_size_mb,
                host_tags=tuple(row.host_tags),
            ),
            origin=Origin(
                row.image or row.template,
                SnapshotId(row.snapshot_id) if row.snapshot_id else None,
                row.template_id,
            ),
            network_revision=row.network_revision,
            idle_ms=row.idle_ms,
            keeps_memory=row.keeps_memory,
            attempts=row.attempts,
            version=row.version,
            generation=row.generation,
            age_s=float(row.age_s),
            move_to=(
                None
                if row.move_host_id is None
                else HostEndpoint(HostId(row.move_host_id), row.target_address, row.target_epoch)
            ),
            move_resumes=row.move_resumes,
            recover_from=None if row.recover_from is None else ImageId(row.recover_from),
        )
        for row in found
    ]


Log = Callable[[CTE], Sequence[CTE]]
"""From the row as it was written, to its entries in the audit log."""


def _nothing(_written: CTE) -> Sequence[CTE]:
    return ()


def by_system(action: str, status: Status, facts: Facts | None = None) -> Log:
    """Build an audit log entry for something that nobody requested."""
    audit_action = AuditAction(Resource.SANDBOX, action, status, facts=facts or {})

    def entries(written: CTE) -> Sequence[CTE]:
        return (
            record_cte(written, SYSTEM, audit_action, resource_id=wire_id(SandboxId.PREFIX, written.c.id)),
        )

    return entries


def by_requester(action: str, *, cause: str = "") -> Log:
    """Build an audit log entry for the result of a request: by the caller who made it, or by the system with the cause."""

    def entries(written: CTE) -> Sequence[CTE]:
        sandbox_id = wire_id(SandboxId.PREFIX, written.c.id)
        asked = AuditAction(Resource.SANDBOX, action)
        unasked = AuditAction(Resource.SANDBOX, action, Status.INFO, facts={"cause": cause} if cause else {})
        requester = written.c.desired_by
        return (
            record_cte(
                written, requester, asked, resource_id=sandbox_id, where=requester.is_not(None), name="asked"
            ),
            record_cte(
                written, SYSTEM, unasked, resource_id=sandbox_id, where=requester.is_(None), name="unasked"
            ),
        )

    return entries


async def write_result(
    database: Database | Transaction,
    hints: Hints,
    where: Sequence[Any],
    values: dict[str, Any],
    log: Log = _nothing,
) -> bool:
    """Write a result with the next version and notify the other replicas; False: the row changed meanwhile.

    With its entries in the audit log, all in one statement.
    """
    written = (
        update(sandboxes)
        .where(*where)
        .values(version=_c.version + 1, last_updated=func.now(), **values)
        .returning(_c.id, _c.team_id, _c.desired_by)
        .cte("written")
    )
    statement = select(written.c.id, hints.notify()).select_from(written).add_cte(*log(written))
    found = await database.execute(statement)
    return found.one_or_none() is not None


def _not_before(moment: ColumnElement[Any], seconds: float) -> ColumnElement[Any]:
    """SQL expression: the moment, but not before `seconds` from now; NULL stays NULL."""
    return case((moment.is_not(None), func.greatest(moment, in_s(seconds))), else_=null())


def _held(work: Work, owner: str) -> Sequence[Any]:
    return (LEASES.is_held(work.sandbox_id.value, owner, version=work.version),)


async def renew_lease(database: Database, work: Work, *, owner: str, lease_s: float) -> bool:
    """Extend the lease; False: it is lost."""
    held = update(sandboxes).where(*_held(work, owner)).values(lease_until=in_s(lease_s))
    return (await database.execute(held)).rowcount == 1


async def write_steps(database: Database, work: Work, steps: HostSteps, *, owner: str) -> bool:
    """Store which steps of a create, pause or resume that goes on are done; False: the lease is lost."""
    held = update(sandboxes).where(*_held(work, owner)).values(steps=steps.to_json())
    return (await database.execute(held)).rowcount == 1


async def finish_running(
    database: Database, hints: Hints, work: Work, seen: HostSandbox, *, owner: str, keep_stored: bool
) -> bool:
    """Record that the sandbox is running: it was started or resumed.

    `keep_stored`: the state of an earlier pause stays in the store, in case its host is lost.
    """
    values: dict[str, Any] = {
        "status": move(work.status, State.RUNNING),
        **NOT_MOVING,
        "host_ip": seen.host_ip,
        "metadata": dict(seen.metadata) or _c.metadata,
        "started_at": func.now(),
        "last_active_at": func.now(),
        "due_at": due_when_running(func.now()),
        "attempts": 0,
        **({} if keep_stored else {"stored_image_id": None, "stored_at": None}),
    }
    if seen.steps.steps:
        values["steps"] = seen.steps.to_json()
    # A create is in the log since it was asked for.
    log = by_requester("resume") if work.status is State.PAUSED else _nothing
    return await write_result(database, hints, _held(work, owner), values | RELEASED, log)


async def finish_paused(
    database: Database, hints: Hints, work: Work, seen: HostSandbox, *, owner: str
) -> bool:
    """Record that the sandbox is paused. After a requested pause, a lifetime that a client renews is removed."""
    asked_for = and_(_c.lift_on_pause, _c.desired_by.is_not(None))
    expires_at = case((asked_for, null()), else_=_c.expires_at)
    values: dict[str, Any] = {
        "status": move(work.status, State.PAUSED),
        "host_ip": "",
        "expires_at": expires_at,
        "due_at": due_when_paused(expires_at=expires_at),
        "platform": seen.platform.to_json(),
        "paused_at": func.now(),
        "idle_ms": 0,
        "keeps_memory": True,
        "attempts": 0,
    }
    if seen.steps.steps:
        values["steps"] = seen.steps.to_json()
    log = by_requester("pause", cause="idle" if work.idle_ms else "")
    return await write_result(database, hints, _held(work, owner), values | RELEASED, log)


async def finish_in_use(
    database: Database, hints: Hints, work: Work, *, active_at_unix: float, owner: str
) -> bool:
    """Record that the sandbox was not idle and keeps running.

    When only the clocks of host and database differ, it is asked again a moment later. A last use that is longer ago is
    the begin of a call that still goes on.
    """
    said = func.to_timestamp(active_at_unix)
    in_a_call = due_when_running(said) < in_s(-_CLOCKS_DIFFER_S)
    last = func.greatest(_c.last_active_at, case((in_a_call, func.now()), else_=said))
    values: dict[str, Any] = {
        "desired": Desired.RUNNING,
        "last_active_at": last,
        "due_at": _not_before(due_when_running(last), _ASK_AGAIN_S),
        "idle_ms": 0,
        "keeps_memory": True,
        "attempts": 0,
    }
    return await write_result(database, hints, _held(work, owner), values | RELEASED)


async def finish_refused(
    database: Database, hints: Hints, work: Work, error: WrennError, *, owner: str
) -> bool:
    """Record that a pause or resume failed: restore the former desired state and store the reason.

    A time-out tries again, but not at once.
    """
    due_at = _not_before(_c.due_at, _TRY_AGAIN_S) if work.status is State.RUNNING else _c.due_at
    values: dict[str, Any] = {
        "desired": Desired(work.status),
        **NOT_MOVING,
        "desired_at": func.now(),
        "failure": error.code,
        "reason": error.message,
        "due_at": due_at,
        "idle_ms": 0,
        "keeps_memory": True,
        "attempts": 0,
    }
    return await write_result(database, hints, _held(work, owner), values | RELEASED)


async def pause_with_memory(database: Database, hints: Hints, work: Work, *, owner: str) -> bool:
    """Pause at once with memory, since the host could not pause without; False: somebody asked for that, or the row changed."""
    values: dict[str, Any] = {"keeps_memory": True, "next_attempt_at": func.now()}
    where = (*_held(work, owner), _c.desired_by.is_(None))
    return await write_result(database, hints, where, values | RELEASED)


async def finish_stopped(database: Database, hints: Hints, work: Work, *, owner: str) -> bool:
    """Record that the sandbox was removed as requested."""
    values: dict[str, Any] = {"status": move(work.status, State.STOPPED), "envs": {}}
    return await write_result(database, hints, _held(work, owner), values | RELEASED)


async def finish_error(
    database: Database, hints: Hints, work: Work, error: WrennError, *, owner: str
) -> bool:
    """Record that the sandbox did not start. Its idempotency key becomes free, so a repetition is a new attempt."""
    values: dict[str, Any] = {
        "status": move(work.status, State.ERROR),
        "failure": error.code,
        "reason": error.message,
        "idempotency_key": None,
        "envs": {},
    }
    log = by_system("marked_error", Status.ERROR, {"code": error.code, "reason": error.message})
    return await write_result(database, hints, _held(work, owner), values | RELEASED, log)


async def move_to_host(tx: Transaction, hints: Hints, work: Work, host_id: HostId, *, owner: str) -> bool:
    """Have a sandbox that is being started be started on another host, at once; False: the lease is lost.

    The generation grows, so that a copy on the former host would give way.
    """
    values: dict[str, Any] = {
        "host_id": host_id.value,
        "generation": _c.generation + 1,
        "attempts": 0,
        "next_attempt_at": func.now(),
    }
    return await write_result(tx, hints, _held(work, owner), values | RELEASED)


async def set_stored(tx: Transaction, work: Work, image_id: ImageId, *, owner: str) -> int | None:
    """Store which image is the saved state of a sandbox that is being moved, and return a generation for the target that no host has.

    In a recovery it is the one that was stored. None: the lease is lost, or another state was stored since.
    """
    recovery = work.recover_from
    saved = {} if recovery is not None else {"stored_at": _c.paused_at}
    # Another image in the store would be another state, which `stored_at` is the time of.
    unchanged = () if recovery is None else (_c.stored_image_id == recovery.value,)
    found = await tx.execute(
        update(sandboxes)
        .where(*_held(work, owner), *unchanged)
        .values(
            stored_image_id=image_id.value,
            move_generation=func.greatest(_c.move_generation, _c.generation) + 1,
            **saved,
        )
        .returning(_c.move_generation)
    )
    row = found.one_or_none()
    return None if row is None else row.move_generation


async def finish_moved(tx: Transaction, hints: Hints, work: Work, generation: int, *, owner: str) -> bool:
    """Record that the target of a move has the sandbox, which is resumed there if that was asked for.

    False: the lease is lost, or its disk or network policy was changed since: the target has the former one.
    """
    assert work.move_to is not None, "it is being moved"
    values: dict[str, Any] = {
        "host_id": work.move_to.host_id.value,
        "generation": generation,
        "desired": Desired.RUNNING if work.move_resumes else Desired.PAUSED,
        "desired_at": func.now(),
        **({} if work.recover_from is None else {"paused_at": _c.stored_at}),
        **NOT_MOVING,
        "failure": "",
        "reason": "",
        "attempts": 0,
        "next_attempt_at": func.now(),
    }
    where = (
        *_held(work, owner),
        _c.disk_size_mb == work.spec.disk_size_mb,
        _c.network_revision == work.network_revision,
    )
    # A recovery is in the log since it was asked for.
    log = by_requester("move") if work.recover_from is None else _nothing
    return await write_result(tx, hints, where, values | RELEASED, log)


async def finish_not_moved(
    database: Database, hints: Hints, work: Work, error: WrennError, *, owner: str
) -> bool:
    """Record that a sandbox was not moved, and why; it is resumed where it is if it was to be resumed and its host is neither drained nor lost."""
    is_draining = (
        select(hosts.c.drain_policy.is_not(None))
        .where(hosts.c.id == work.host.host_id.value)
        .scalar_subquery()
    )
    resumed = case((is_draining, Desired.PAUSED), else_=Desired.RUNNING)
    values: dict[str, Any] = {
        "desired": resumed if work.move_resumes and work.recover_from is None else Desired.PAUSED,
        "desired_at": func.now(),
        **NOT_MOVING,
        "failure": error.code,
        "reason": error.message,
        "attempts": 0,
        "next_attempt_at": func.now(),
    }
    return await write_result(database, hints, _held(work, owner), values | RELEASED)


async def postpone(
    database: Database,
    hints: Hints,
    work: Work,
    *,
    owner: str,
    pause_s: float,
    attempts: int | None = None,
) -> bool:
    """Try again later. `attempts`: how many there have been, if this was none."""
    values: dict[str, Any] = {"next_attempt_at": in_s(pause_s)}
    if attempts is not None:
        values["attempts"] = attempts
    return await write_result(database, hints, _held(work, owner), values | RELEASED)
