"""Statements on sandboxes that serve the loops: leases, and results that are written only by who still holds one.

Time is the database's, so replicas with different clocks agree on leases.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, case, func, or_, select, update

from wrenn.base.errors import WrennError
from wrenn.base.ids import HostId, SandboxId, TeamId
from wrenn.control.db import Database, Hints
from wrenn.control.hosts import hosts
from wrenn.control.sandboxes.records import Sandbox, Spec, Work
from wrenn.control.sandboxes.state import ENDED, Desired, State, move
from wrenn.control.sandboxes.store import is_live, sandbox_of, select_sandboxes
from wrenn.control.sandboxes.tables import sandboxes
from wrenn.protocol.host import host_pb as pb

_c = sandboxes.c
_FREE: Final[dict[str, Any]] = {"lease_owner": None, "lease_until": None}


def _in_s(seconds: float) -> ColumnElement[Any]:
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


async def take_due(database: Database, *, owner: str, lease_s: float, limit: int) -> list[Work]:
    """Lease up to `limit` sandboxes that have something to do and that nobody works on."""
    due = (
        select(_c.id)
        .where(
            or_(
                _c.status.in_([State.PENDING, State.STARTING]),
                and_(_c.desired == Desired.STOPPED, _c.status.in_([State.RUNNING, State.MISSING])),
            ),
            _c.next_attempt_at <= func.now(),
            or_(_c.lease_until.is_(None), _c.lease_until < func.now()),
        )
        .order_by(_c.next_attempt_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    starts = and_(_c.status == State.PENDING, _c.desired == Desired.RUNNING)
    found = await database.execute(
        update(sandboxes)
        .where(_c.id.in_(due.scalar_subquery()), hosts.c.id == _c.host_id)
        .values(
            status=case((starts, move(State.PENDING, State.STARTING)), else_=_c.status),
            lease_owner=owner,
            lease_until=_in_s(lease_s),
            attempts=_c.attempts + 1,
            version=_c.version + 1,
        )
        .returning(
            *(
                _c[name]
                for name in (
                    "id", "team_id", "status", "desired", "template", "vcpus", "memory_mb", "timeout_sec",
                    "envs", "disk_size_mb", "attempts", "version",
                )
            ),
            hosts.c.address,
            func.extract("epoch", func.now() - _c.created_at).label("age_s"),
        )
    )  # fmt: skip
    return [
        Work(
            sandbox_id=SandboxId(row.id),
            team_id=TeamId(row.team_id),
            host_address=row.address,
            status=State(row.status),
            desired=Desired(row.desired),
            spec=Spec(row.template, row.vcpus, row.memory_mb, row.timeout_sec, row.envs),
            disk_size_mb=row.disk_size_mb,
            attempts=row.attempts,
            version=row.version,
            age_s=float(row.age_s),
        )
        for row in found
    ]


async def renew(database: Database, ids: Collection[SandboxId], *, owner: str, lease_s: float) -> None:
    """Hold the leases on these for longer."""
    await database.execute(
        update(sandboxes)
        .where(_c.id.in_([i.value for i in ids]), _c.lease_owner == owner)
        .values(lease_until=_in_s(lease_s))
    )


async def _write(database: Database, hints: Hints, where: Sequence[Any], values: dict[str, Any]) -> bool:
    """Write a result with the next version, and tell the other replicas; whether the row was still as expected."""
    written = (
        update(sandboxes)
        .where(*where)
        .values(version=_c.version + 1, last_updated=func.now(), **values)
        .returning(_c.id)
        .cte("written")
    )
    found = await database.execute(select(written.c.id, hints.notify()).select_from(written))
    return found.one_or_none() is not None


def _held(work: Work, owner: str) -> Sequence[Any]:
    return _c.id == work.sandbox_id.value, _c.lease_owner == owner, _c.version == work.version


async def finish_running(
    database: Database, hints: Hints, work: Work, seen: pb.Sandbox, *, owner: str
) -> bool:
    """It runs."""
    values: dict[str, Any] = {
        "status": move(work.status, State.RUNNING),
        "host_ip": seen.host_ip,
        "metadata": dict(seen.metadata),
        "started_at": func.now(),
        "last_active_at": func.now(),
        "attempts": 0,
    }
    return await _write(database, hints, _held(work, owner), values | _FREE)


async def finish_stopped(database: Database, hints: Hints, work: Work, *, owner: str) -> bool:
    """Nothing of it is left, as its owner wanted."""
    values: dict[str, Any] = {"status": move(work.status, State.STOPPED), "envs": {}}
    return await _write(database, hints, _held(work, owner), values | _FREE)


async def finish_error(
    database: Database, hints: Hints, work: Work, error: WrennError, *, owner: str
) -> bool:
    """It did not start. Its idempotency key is free again: a repetition of the request is a new attempt."""
    values: dict[str, Any] = {
        "status": move(work.status, State.ERROR),
        "failure": error.code,
        "reason": error.message,
        "idempotency_key": None,
        "envs": {},
    }
    return await _write(database, hints, _held(work, owner), values | _FREE)


async def postpone(database: Database, hints: Hints, work: Work, *, owner: str, pause_s: float) -> bool:
    """Try again later."""
    return await _write(database, hints, _held(work, owner), {"next_attempt_at": _in_s(pause_s)} | _FREE)


async def live_on_host(database: Database, host_id: HostId) -> list[Sandbox]:
    """The sandboxes that should be, or may still be, on this host."""
    found = await database.execute(
        select_sandboxes().where(_c.host_id == host_id.value, is_live()), repeatable=True
    )
    return [sandbox_of(row) for row in found]


async def ended_among(database: Database, ids: Collection[SandboxId]) -> dict[SandboxId, bool]:
    """Of those ids that have a row: whether that sandbox has ended."""
    found = await database.execute(
        select(_c.id, _c.status.in_(sorted(ENDED)).label("ended")).where(_c.id.in_([i.value for i in ids])),
        repeatable=True,
    )
    return {SandboxId(row.id): row.ended for row in found}


def _unchanged(sandbox: Sandbox) -> Sequence[Any]:
    return _c.id == sandbox.sandbox_id.value, _c.version == sandbox.version


async def record_lost(database: Database, hints: Hints, sandbox: Sandbox, reason: str) -> bool:
    """Its virtual machine ended by itself."""
    values: dict[str, Any] = {
        "status": move(sandbox.status, State.ERROR),
        "failure": "agent_error",
        "reason": reason,
        "envs": {},
    }
    return await _write(database, hints, _unchanged(sandbox), values)


async def record_state(database: Database, hints: Hints, sandbox: Sandbox, state: State) -> bool:
    """Its host went silent, or answers again."""
    return await _write(database, hints, _unchanged(sandbox), {"status": move(sandbox.status, state)})


async def record_active_at(database: Database, sandbox: Sandbox, unix_s: float) -> None:
    """When the host saw it in use last; not a change of its state."""
    await database.execute(
        update(sandboxes)
        .where(_c.id == sandbox.sandbox_id.value)
        .values(last_active_at=func.greatest(_c.last_active_at, func.to_timestamp(unix_s)))
    )
