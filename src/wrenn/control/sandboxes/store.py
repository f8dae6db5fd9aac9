"""Statements on sandboxes that serve requests. Those of the loops are in `work_store.py`.

A state is written only where the row still has the version on which the decision was made, or under the row's lock.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import Row, Select, and_, func, insert, select, update

from wrenn.base.ids import HostId, KeyId, SandboxId, TeamId
from wrenn.control.auth import KEY_COLUMNS, Caller, key_and_team, key_matches
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.hosts import hosts
from wrenn.control.placement import Load
from wrenn.control.sandboxes.records import DISK_SIZE_MB, Idempotency, Sandbox, Spec
from wrenn.control.sandboxes.state import ENDED, Desired, State
from wrenn.control.sandboxes.tables import sandboxes

_PLACEMENT_LOCK: Final = 0x706C616365
"""Advisory lock of all placements of one database: "place". Two creates never count the same room twice."""

_COLUMNS: Final = [
    sandboxes.c[name]
    for name in (
        "id", "team_id", "host_id", "status", "desired", "failure", "reason", "version", "template", "vcpus",
        "memory_mb", "timeout_sec", "host_ip", "metadata", "created_at", "started_at", "last_active_at", "last_updated",
    )
]  # fmt: skip


def is_live() -> Any:
    """True for sandboxes that have not ended."""
    return sandboxes.c.status.not_in(sorted(ENDED))


def sandbox_of(row: Row[Any]) -> Sandbox:
    """The row as a value."""
    return Sandbox(
        sandbox_id=SandboxId(row.id),
        team_id=TeamId(row.team_id),
        host_id=HostId(row.host_id),
        status=State(row.status),
        desired=Desired(row.desired),
        failure=row.failure,
        reason=row.reason,
        version=row.version,
        template=row.template,
        vcpus=row.vcpus,
        memory_mb=row.memory_mb,
        timeout_sec=row.timeout_sec,
        host_ip=row.host_ip,
        # SQLAlchemy's rows call their own columns `_mapping`; `metadata` is free.
        metadata=row.metadata,
        created_at=row.created_at,
        started_at=row.started_at,
        last_active_at=row.last_active_at,
        last_updated=row.last_updated,
    )


def select_sandboxes() -> Select[Any]:
    """What `sandbox_of` reads."""
    return select(*_COLUMNS)


async def locate(
    database: Database, key_hash: str, sandbox_id: SandboxId
) -> tuple[Caller | None, Sandbox | None, str]:
    """Caller, sandbox of the caller's team, and its host's address: the one query of most requests."""
    source = (
        key_and_team()
        .outerjoin(
            sandboxes,
            and_(sandboxes.c.id == sandbox_id.value, sandboxes.c.team_id == KEY_COLUMNS[1].element),
        )
        .outerjoin(hosts, hosts.c.id == sandboxes.c.host_id)
    )
    found = await database.execute(
        select(*KEY_COLUMNS, *_COLUMNS, hosts.c.address).select_from(source).where(key_matches(key_hash)),
        repeatable=True,
    )
    row = found.one_or_none()
    if row is None:
        return None, None, ""
    caller = Caller(KeyId(row.key_id), TeamId(row.key_team_id))
    return caller, sandbox_of(row) if row.id is not None else None, row.address or ""


async def load(database: Database, sandbox_id: SandboxId) -> Sandbox | None:
    """One sandbox."""
    found = await database.execute(
        select_sandboxes().where(sandboxes.c.id == sandbox_id.value), repeatable=True
    )
    row = found.one_or_none()
    return None if row is None else sandbox_of(row)


async def live_of_team(database: Database, team_id: TeamId) -> list[Sandbox]:
    """The team's sandboxes that have not ended, newest first."""
    found = await database.execute(
        select_sandboxes()
        .where(sandboxes.c.team_id == team_id.value, is_live())
        .order_by(sandboxes.c.created_at.desc(), sandboxes.c.id),
        repeatable=True,
    )
    return [sandbox_of(row) for row in found]


async def lock_placement(tx: Transaction) -> None:
    """Be the only placement until this transaction ends."""
    await tx.execute(select(func.pg_advisory_xact_lock(_PLACEMENT_LOCK)))


async def find_repeated(tx: Transaction, team_id: TeamId, key: str) -> tuple[Sandbox, bytes] | None:
    """The sandbox that was created under this idempotency key, with its request's digest."""
    found = await tx.execute(
        select(*_COLUMNS, sandboxes.c.request_digest).where(
            sandboxes.c.team_id == team_id.value, sandboxes.c.idempotency_key == key
        )
    )
    row = found.one_or_none()
    return None if row is None else (sandbox_of(row), row.request_digest)


async def loads(tx: Transaction) -> dict[HostId, Load]:
    """What is promised on each host. A sandbox counts until nothing of it is left there."""
    found = await tx.execute(
        select(
            sandboxes.c.host_id,
            func.count(),
            func.sum(sandboxes.c.memory_mb),
            func.sum(sandboxes.c.disk_size_mb),
        )
        .where(is_live())
        .group_by(sandboxes.c.host_id)
    )
    return {HostId(host_id): Load(count, int(memory), int(disk)) for host_id, count, memory, disk in found}


async def insert_sandbox(
    tx: Transaction,
    hints: Hints,
    *,
    sandbox_id: SandboxId,
    team_id: TeamId,
    host_id: HostId,
    spec: Spec,
    idempotency: Idempotency | None,
) -> None:
    """A new row, due at once."""
    row = insert(sandboxes).values(
        id=sandbox_id.value,
        team_id=team_id.value,
        host_id=host_id.value,
        status=State.PENDING,
        desired=Desired.RUNNING,
        template=spec.template,
        vcpus=spec.vcpus,
        memory_mb=spec.memory_mb,
        disk_size_mb=DISK_SIZE_MB,
        timeout_sec=spec.timeout_sec,
        envs=dict(spec.envs),
        idempotency_key=idempotency.key if idempotency else None,
        request_digest=idempotency.digest if idempotency else None,
    )
    inserted = row.returning(sandboxes.c.id).cte("inserted")
    await tx.execute(select(hints.notify()).select_from(inserted))


async def want_stopped(database: Database, hints: Hints, ids: Collection[SandboxId]) -> None:
    """Have these sandboxes removed; those that have ended stay as they are.

    A lease is taken away: its worker's result will not be written, and removal may begin at once.
    """
    wanted = (
        update(sandboxes)
        .where(
            sandboxes.c.id.in_([sandbox_id.value for sandbox_id in ids]),
            sandboxes.c.desired == Desired.RUNNING,
            is_live(),
        )
        .values(
            desired=Desired.STOPPED,
            version=sandboxes.c.version + 1,
            lease_owner=None,
            lease_until=None,
            attempts=0,
            next_attempt_at=func.now(),
            last_updated=func.now(),
        )
        .returning(sandboxes.c.id)
        .cte("wanted")
    )
    await database.execute(select(hints.notify()).select_from(wanted))


async def record_activity(database: Database, sandbox_id: SandboxId) -> None:
    """It was used now."""
    await database.execute(
        update(sandboxes).where(sandboxes.c.id == sandbox_id.value).values(last_active_at=func.now())
    )
