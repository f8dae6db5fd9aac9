"""Statements on hosts as the loops and placement know them."""

from __future__ import annotations

import math
from typing import Any, Final

from sqlalchemy import (
    CTE,
    ColumnElement,
    Float,
    Row,
    Select,
    Text,
    Update,
    Uuid,
    and_,
    bindparam,
    case,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from wrenn.base.ids import HostId, TeamId
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
from wrenn.control.db import Database, in_s
from wrenn.control.hosts.tables import host_tags, hosts
from wrenn.control.hosts.types import Host, HostEndpoint, HostReport, HostStatus
from wrenn.protocol.vm_platform import VmPlatform

_COLUMNS: Final = [
    hosts.c[name]
    for name in (
        "id", "name", "address", "status", "cpu_cores", "memory_b", "disk_b", "disk_available_b", "sandbox_disk_b",
        "sandbox_limit", "templates", "is_reachable", "team_id", "drain_policy", "inventory", "last_heartbeat_at", "platform",
        "cert_epoch",
    )
]  # fmt: skip


def select_hosts() -> Select[Any]:
    """Select the columns that `host_of` reads, of every host that has registered and is not deleted."""
    silent, unheard = (
        func.extract("epoch", func.now() - moment)
        for moment in (hosts.c.silent_since, hosts.c.last_heartbeat_at)
    )
    tags = (
        select(func.array_agg(host_tags.c.tag, type_=ARRAY(Text)))
        .where(host_tags.c.host_id == hosts.c.id)
        .scalar_subquery()
    )
    return (
        select(*_COLUMNS, silent.label("silent_s"), unheard.label("unheard_s"), tags.label("tags"))
        # One that has to register again has no address any more, and sandboxes perhaps.
        .where(
            hosts.c.deleted_at.is_(None), or_(hosts.c.address != "", hosts.c.status == HostStatus.UNREACHABLE)
        )
        .order_by(hosts.c.id)
    )


REPORT_COLUMNS: Final = (
    "agent_version",
    "vmm",
    "accelerator",
    "cpu_cores",
    "memory_b",
    "memory_available_b",
    "disk_b",
    "disk_available_b",
    "sandbox_disk_b",
    "sandbox_limit",
    "templates",
    "template_contents",
    "platform",
)
"""Columns that hold what a host reports, and fields of `HostReport`."""
_of_host: Final = bindparam("of_host", type_=Uuid)
_called: Final = bindparam("called", type_=Text)
_ALL: Final = select_hosts()


def host_of(row: Row[Any]) -> Host:
    """Convert a row of `select_hosts` to a value."""
    return Host(
        host_id=HostId(row.id),
        name=row.name,
        address=row.address,
        status=HostStatus(row.status),
        cpu_cores=row.cpu_cores,
        memory_b=row.memory_b,
        disk_b=row.disk_b,
        disk_available_b=row.disk_available_b,
        sandbox_disk_b=row.sandbox_disk_b,
        sandbox_limit=row.sandbox_limit,
        templates=frozenset(row.templates),
        silent_s=_silent_s(row),
        cert_epoch=row.cert_epoch,
        is_reachable=row.is_reachable,
        inventory=row.inventory,
        last_heartbeat_at=row.last_heartbeat_at,
        unheard_s=math.inf if row.unheard_s is None else float(row.unheard_s),
        team_id=None if row.team_id is None else TeamId(row.team_id),
        tags=frozenset(row.tags or ()),
        is_draining=row.drain_policy is not None,
        platform=VmPlatform.from_json(row.platform),
    )


def _silent_s(row: Row[Any]) -> float:
    if row.is_reachable:
        return 0.0
    return math.inf if row.silent_s is None else float(row.silent_s)


async def all_hosts(database: Database) -> list[Host]:
    """Return every host that has registered and is not deleted."""
    return [host_of(row) for row in await database.execute(_ALL, repeatable=True)]


def marked(changed: CTE, action: str, status: Status) -> list[CTE]:
    """Entries in the log of the team whose host it is, for all its members; of a regular host in the platform's."""
    host_id = wire_id(HostId.PREFIX, changed.c.id)
    is_platforms = changed.c.team_id == PLATFORM_TEAM.value
    return [
        record_cte(
            changed,
            SYSTEM,
            AuditAction(Resource.HOST, action, status, scope),
            resource_id=host_id,
            where=where,
            name=name,
        )
        for scope, where, name in (
            (Scope.ADMIN, is_platforms, "recorded_for_platform"),
            (Scope.TEAM, not_(is_platforms), "recorded_for_team"),
        )
    ]


def log_team(team_id: ColumnElement[Any]) -> ColumnElement[Any]:
    """SQL expression: the team in whose log a host stands."""
    return func.coalesce(team_id, literal(PLATFORM_TEAM.value, Uuid)).label("team_id")


def report_values(report: HostReport | None) -> dict[str, Any]:
    """Values for the parameters of `report_columns`; None: no report, and the columns keep theirs."""
    values = dict.fromkeys(REPORT_COLUMNS) if report is None else reported_columns(report)
    return {f"report_{name}": value for name, value in values.items()}


def reported_columns(report: HostReport) -> dict[str, Any]:
    """Return the values of `REPORT_COLUMNS`, which can all be written as JSON."""
    return {name: getattr(report, name) for name in REPORT_COLUMNS} | {
        "templates": list(report.templates),
        "template_contents": dict(report.template_contents),
        "platform": report.platform.to_json(),
    }


def report_columns() -> dict[str, Any]:
    """SQL expressions for the columns that hold what a host reports, with parameters from `report_values`."""
    return {
        name: func.coalesce(bindparam(f"report_{name}", type_=hosts.c[name].type), hosts.c[name])
        for name in REPORT_COLUMNS
    }


def _seen() -> Update:
    was = (
        select(hosts.c.id, hosts.c.status, log_team(hosts.c.team_id))
        # It may have registered at another address since it was called, or have to register again.
        .where(hosts.c.id == _of_host, hosts.c.deleted_at.is_(None), hosts.c.address == _called)
        .with_for_update(key_share=True)
        .cte("was")
    )
    back = select(was.c.id, was.c.team_id).where(was.c.status == HostStatus.UNREACHABLE).cte("back")
    return (
        update(hosts)
        .where(hosts.c.id == was.c.id)
        .add_cte(*marked(back, "marked_up", Status.SUCCESS))
        .values(
            status=HostStatus.ONLINE,
            is_reachable=True,
            silent_since=None,
            last_seen_at=func.now(),
            updated_at=func.now(),
            **report_columns(),
        )
    )


_SEEN: Final = _seen()


async def record_seen(database: Database, called: HostEndpoint, seen: HostReport) -> None:
    """Store what the host's agent answered just now, if the host is still at the address that was called."""
    await database.execute(_SEEN, {**_values_of(called), **report_values(seen)})


def _values_of(called: HostEndpoint) -> dict[str, object]:
    return {"of_host": called.host_id.value, "called": called.address}


def _silent() -> Update:
    was = (
        select(hosts.c.id, hosts.c.status, hosts.c.last_heartbeat_at, log_team(hosts.c.team_id))
        .where(hosts.c.id == _of_host, hosts.c.deleted_at.is_(None), hosts.c.address == _called)
        .with_for_update(key_share=True)
        .cte("was")
    )
    missing_after = bindparam("missing_after_s", type_=Float)
    is_heard = func.coalesce(was.c.last_heartbeat_at > in_s(-missing_after), false())
    is_down = and_(was.c.status == HostStatus.ONLINE, not_(is_heard))
    down = select(was.c.id, was.c.team_id).where(is_down).cte("down")
    return (
        update(hosts)
        .where(hosts.c.id == was.c.id)
        .add_cte(*marked(down, "marked_down", Status.ERROR))
        .values(
            is_reachable=False,
            silent_since=case((hosts.c.is_reachable, func.now()), else_=hosts.c.silent_since),
            status=case((is_down, HostStatus.UNREACHABLE), else_=was.c.status),
            updated_at=func.now(),
        )
        .returning(is_down)
    )


_SILENT: Final = _silent()


async def record_silent(database: Database, called: HostEndpoint, *, missing_after_s: float) -> bool:
    """Store that the host did not answer, if it is still at the address that was called.

    It becomes unreachable if no heartbeat came for `missing_after_s` either: returns that.
    """
    found = await database.execute(_SILENT, {**_values_of(called), "missing_after_s": missing_after_s})
    return bool(found.scalar_one_or_none())
