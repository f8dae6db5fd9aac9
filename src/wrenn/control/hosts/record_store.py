"""Statements on hosts as users, admins and the operator deal with them. A change holds the lock of its host."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, Text, delete, func, insert, select, text, true, update
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by
from sqlalchemy.dialects.postgresql import insert as upsert

from wrenn.base.ids import HostId, TeamId, UserId
from wrenn.control.db import Database, Transaction, in_s
from wrenn.control.hosts.drain_store import drain_policy_of
from wrenn.control.hosts.records import Drain, HostRecord, NewHost
from wrenn.control.hosts.tables import host_tags, hosts
from wrenn.control.hosts.types import HostStatus, HostType
from wrenn.control.identity import teams

_c = hosts.c
_DELETION_LIMIT_S: Final = 60
"""To end ten thousand sandboxes, each with an event and an entry in the audit log, takes some seconds."""


def _select() -> Select[Any]:
    tags = (
        select(func.array_agg(aggregate_order_by(host_tags.c.tag, host_tags.c.tag), type_=ARRAY(Text)))
        .where(host_tags.c.host_id == _c.id)
        .scalar_subquery()
    )
    return (
        select(hosts, teams.c.name.label("team_name"), tags.label("tags"))
        .outerjoin(teams, teams.c.id == _c.team_id)
        .where(_c.deleted_at.is_(None))
    )


def _record(row: Any) -> HostRecord:
    return HostRecord(
        host_id=HostId(row.id),
        name=row.name,
        type=HostType(row.type),
        team_id=None if row.team_id is None else TeamId(row.team_id),
        team_name=row.team_name,
        provider=row.provider,
        availability_zone=row.availability_zone,
        arch=row.arch,
        cpu_cores=row.cpu_cores,
        memory_b=row.memory_b,
        disk_b=row.disk_b,
        address=row.address,
        cert_epoch=row.cert_epoch,
        status=HostStatus(row.status),
        agent_version=row.agent_version,
        accelerator=row.accelerator,
        cert_expires_at=row.cert_expires_at,
        last_heartbeat_at=row.last_heartbeat_at,
        created_by=None if row.created_by is None else UserId(row.created_by),
        created_at=row.created_at,
        updated_at=row.updated_at,
        tags=row.tags or (),
        drain=None
        if row.drain_policy is None
        else Drain(drain_policy_of(row), row.drain_began_at, row.drained_at),
    )


def _of(team_id: TeamId | None) -> ColumnElement[bool]:
    """SQL condition: the team's own hosts; None: all."""
    return true() if team_id is None else _c.team_id == team_id.value


async def visible(database: Database, team_id: TeamId | None) -> list[HostRecord]:
    """Return the team's own hosts, oldest first; None: all hosts."""
    found = await database.execute(
        _select().where(_of(team_id)).order_by(_c.created_at, _c.id), repeatable=True
    )
    return [_record(row) for row in found]


async def find(database: Database, host_id: HostId, team_id: TeamId | None) -> HostRecord | None:
    """Return one host, of the team's own unless that is None; None: there is no such host."""
    found = await database.execute(_select().where(_c.id == host_id.value, _of(team_id)), repeatable=True)
    row = found.one_or_none()
    return None if row is None else _record(row)


async def lock(tx: Transaction, host_id: HostId) -> HostRecord | None:
    """Return one host, locked: nobody else deletes it or changes its credentials meanwhile. None: there is no such host."""
    # What the row is joined with is read after the lock was waited for.
    await tx.execute(select(_c.id).where(_c.id == host_id.value).with_for_update())
    row = (await tx.execute(_select().where(_c.id == host_id.value))).one_or_none()
    return None if row is None else _record(row)


async def exists(tx: Transaction, host_id: HostId) -> bool:
    """Whether there is a host with this id that was not deleted."""
    found = await tx.execute(select(_c.id).where(_c.id == host_id.value, _c.deleted_at.is_(None)))
    return found.one_or_none() is not None


async def is_heard(tx: Transaction, host_id: HostId, *, within_s: float) -> bool:
    """Whether a heartbeat of this host was accepted within the last `within_s`."""
    heard = select(_c.id).where(_c.id == host_id.value, _c.last_heartbeat_at > in_s(-within_s))
    return (await tx.execute(heard)).one_or_none() is not None


async def lock_of_team(tx: Transaction, team_id: TeamId) -> list[HostRecord]:
    """Return all hosts of a team, locked."""
    await tx.execute(select(_c.id).where(_of(team_id)).order_by(_c.id).with_for_update())
    return [_record(row) for row in await tx.execute(_select().where(_of(team_id)).order_by(_c.id))]


async def lock_regular(tx: Transaction, name: str) -> HostRecord | None:
    """Return the regular host of this name, locked; None: there is no such host."""
    found = await tx.execute(
        select(_c.id).where(_c.team_id.is_(None), _c.name == name, _c.deleted_at.is_(None))
    )
    row = found.one_or_none()
    return None if row is None else await lock(tx, HostId(row.id))


async def count_of_team(tx: Transaction, team_id: TeamId) -> int:
    """Return how many hosts the team has."""
    found = await tx.execute(select(func.count()).where(_of(team_id), _c.deleted_at.is_(None)))
    return found.scalar_one()


async def insert_host(tx: Transaction, host: NewHost, *, by: UserId | None) -> HostRecord | None:
    """Insert a host that has not registered, and return it locked; None: its name is taken."""
    is_byoc = host.team_id is not None
    row = {
        "id": HostId.new().value,
        "name": host.name,
        "type": HostType.BYOC if is_byoc else HostType.REGULAR,
        "team_id": None if host.team_id is None else host.team_id.value,
        "provider": host.provider,
        "availability_zone": host.availability_zone,
        "created_by": None if by is None else by.value,
    }
    made = await tx.execute(upsert(hosts).values(row).on_conflict_do_nothing().returning(_c.id))
    found = made.one_or_none()
    return None if found is None else await lock(tx, HostId(found.id))


async def mark_deleted(tx: Transaction, host_ids: Collection[HostId]) -> None:
    """Mark locked hosts as deleted. What lies on them, which this transaction ends, may be ten thousand sandboxes and more."""
    await tx.execute(text(f"SET LOCAL statement_timeout = '{_DELETION_LIMIT_S}s'"))
    await tx.execute(
        update(hosts)
        .where(_c.id.in_([host_id.value for host_id in host_ids]))
        .values(deleted_at=func.now(), updated_at=func.now())
    )


async def insert_tag(tx: Transaction, host_id: HostId, tag: str) -> None:
    """Insert a tag of a locked host that does not have it."""
    await tx.execute(insert(host_tags).values(host_id=host_id.value, tag=tag))


async def delete_tag(tx: Transaction, host_id: HostId, tag: str) -> None:
    """Delete a tag of a locked host."""
    await tx.execute(delete(host_tags).where(host_tags.c.host_id == host_id.value, host_tags.c.tag == tag))
