"""Statements on hosts."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import CTE, Row, Select, Uuid, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from wrenn.base.ids import HostId
from wrenn.control.audit import (
    PLATFORM_TEAM,
    SYSTEM,
    AuditAction,
    Resource,
    Scope,
    Status,
    record_cte,
    wire_id,
)
from wrenn.control.db import Database, Transaction
from wrenn.control.hosts.tables import hosts
from wrenn.control.hosts.types import Host, HostReport, HostStatus


async def register(database: Database, *, name: str, address: str) -> HostId:
    """Register the host of this name, or update its address. Returns its id, which never changes."""
    row = upsert(hosts).values(id=HostId.new().value, name=name, address=address)
    found = await database.execute(
        row.on_conflict_do_update(
            index_elements=["name"], set_={"address": row.excluded.address, "updated_at": func.now()}
        ).returning(hosts.c.id)
    )
    return HostId(found.scalar_one())


def _select() -> Select[Any]:
    silent = func.extract("epoch", func.now() - func.coalesce(hosts.c.last_seen_at, hosts.c.created_at))
    return select(hosts, silent.label("silent_s")).order_by(hosts.c.id)


_ALL: Final = _select()


def _host(row: Row[Any]) -> Host:
    return Host(
        host_id=HostId(row.id),
        name=row.name,
        address=row.address,
        status=HostStatus(row.status),
        memory_b=row.memory_b,
        disk_b=row.disk_b,
        disk_available_b=row.disk_available_b,
        sandbox_disk_b=row.sandbox_disk_b,
        sandbox_limit=row.sandbox_limit,
        templates=frozenset(row.templates),
        silent_s=float(row.silent_s),
    )


async def all_hosts(database: Database) -> list[Host]:
    """Return every host."""
    return [_host(row) for row in await database.execute(_ALL, repeatable=True)]


async def all_hosts_in(tx: Transaction) -> list[Host]:
    """Return every host, inside a transaction."""
    return [_host(row) for row in await tx.execute(_ALL)]


def _marked(changed: CTE, action: str, status: Status) -> CTE:
    audit_action = AuditAction(Resource.HOST, action, status, Scope.ADMIN)
    return record_cte(changed, SYSTEM, audit_action, resource_id=wire_id(HostId.PREFIX, changed.c.id))


_team: Final = literal(PLATFORM_TEAM.value, Uuid).label("team_id")
"""In whose audit log hosts stand: they are the platform's."""


async def record_seen(database: Database, host_id: HostId, seen: HostReport) -> None:
    """Store what the host's agent reported just now."""
    was = select(hosts.c.id, hosts.c.status).where(hosts.c.id == host_id.value).with_for_update().cte("was")
    back = select(was.c.id, _team).where(was.c.status == HostStatus.UNREACHABLE).cte("back")
    await database.execute(
        update(hosts)
        .where(hosts.c.id == was.c.id)
        .add_cte(_marked(back, "marked_up", Status.SUCCESS))
        .values(
            status=HostStatus.ONLINE,
            agent_version=seen.agent_version,
            vmm=seen.vmm,
            accelerator=seen.accelerator,
            cpu_cores=seen.cpu_cores,
            memory_b=seen.memory_b,
            memory_available_b=seen.memory_available_b,
            disk_b=seen.disk_b,
            disk_available_b=seen.disk_available_b,
            sandbox_disk_b=seen.sandbox_disk_b,
            sandbox_limit=seen.sandbox_limit,
            templates=list(seen.templates),
            last_seen_at=func.now(),
            updated_at=func.now(),
        )
    )


async def record_silent(database: Database, host_id: HostId) -> None:
    """Store that the host did not answer."""
    silent = (
        update(hosts)
        .where(hosts.c.id == host_id.value, hosts.c.status == HostStatus.ONLINE)
        .values(status=HostStatus.UNREACHABLE, updated_at=func.now())
        .returning(hosts.c.id, _team)
        .cte("silent")
    )
    await database.execute(select(silent.c.id).add_cte(_marked(silent, "marked_down", Status.ERROR)))
