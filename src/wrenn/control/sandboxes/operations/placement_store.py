"""Statements that read the capacity allocated on hosts and insert sandboxes, in a transaction that the service opened."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    CTE,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    column,
    false,
    func,
    insert,
    literal,
    not_,
    null,
    or_,
    select,
    true,
    values,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from wrenn.base.ids import HostId, SandboxId, SnapshotId, TeamId
from wrenn.control.audit import Actor, AuditAction, Facts, Resource, actor_json, record, record_cte, wire_id
from wrenn.control.db import Database, Hints, RowQuery, Transaction, in_s
from wrenn.control.hosts import Host, host_of, hosts, select_hosts
from wrenn.control.placement import Load
from wrenn.control.sandboxes.records import Idempotency, Origin, Sandbox, Spec
from wrenn.control.sandboxes.state import Desired, State
from wrenn.control.sandboxes.store import is_live, sandbox_of, select_sandboxes, takes_memory
from wrenn.control.sandboxes.tables import sandboxes

_LOCK: Final = 0x706C616365
"""Advisory lock that all placements in one database take ("place" in ASCII), so that no two requests count the same capacity twice."""

_c = sandboxes.c


# Statements that every create waits for are built once: to build one takes as long as to run it.

_LOCK_PLACEMENT: Final = select(
    # To plan for the given hosts and team takes PostgreSQL as long as to read them, and gives the same plan.
    func.set_config("plan_cache_mode", "force_generic_plan", true()),
    func.pg_advisory_xact_lock(_LOCK),
)


async def lock_placement(tx: Transaction) -> None:
    """Take the placement lock until this transaction ends. Its statements are planned for any arguments."""
    await tx.execute(_LOCK_PLACEMENT)


async def find_repeated(tx: Transaction, team_id: TeamId, key: str) -> tuple[Sandbox, bytes] | None:
    """Return the sandbox that was created under this idempotency key, and the digest of its request."""
    found = await tx.execute(
        select_sandboxes()
        .add_columns(_c.request_digest)
        .where(_c.team_id == team_id.value, _c.idempotency_key == key)
    )
    row = found.one_or_none()
    return None if row is None else (sandbox_of(row), row.request_digest)


@dataclass(frozen=True, slots=True)
class HostLoads:
    """Hosts, and what is promised on each."""

    hosts: dict[HostId, Host]
    loads: dict[HostId, Load]


_host_ids: Final = bindparam("host_ids", type_=ARRAY(Uuid))


def _host_loads(*, some: bool) -> RowQuery:
    in_memory = takes_memory()
    is_new = or_(_c.status == State.PENDING, _c.status == State.STARTING)
    load = (
        select(
            _c.host_id,
            func.count().filter(in_memory).label("sandboxes"),
            func.sum(_c.memory_mb).filter(in_memory).label("sandbox_memory_mb"),
            func.sum(_c.disk_size_mb).label("disk_mb"),
            func.count().label("disks"),
            func.sum(_c.vcpus).filter(in_memory).label("vcpus"),
            func.count().filter(is_new).label("creates"),
            func.bool_or(and_(_c.template == bindparam("template", type_=Text), not_(is_new))).label(
                "has_template"
            ),
        )
        .where(is_live(), _c.host_id == func.any(_host_ids) if some else true())
        .group_by(_c.host_id)
        .subquery("load")
    )
    columns = [column for column in load.c if column.name != _c.host_id.name]
    return RowQuery(
        select_hosts()
        .add_columns(*columns)
        .select_from(hosts.outerjoin(load, load.c.host_id == hosts.c.id))
        .where(hosts.c.id == func.any(_host_ids) if some else true())
    )


_ALL_HOSTS: Final = _host_loads(some=False)
_SOME_HOSTS: Final = _host_loads(some=True)


async def host_loads(
    tx: Transaction, *, template: str, host_ids: Collection[HostId] | None = None
) -> HostLoads:
    """Read these hosts, or all, and sum up what is promised to sandboxes on each; `template`: of the sandbox to be placed.

    A sandbox counts until nothing of it is left there; one that stays paused counts only with its share of the disk.
    """
    if host_ids is None:
        rows = await Database.find_all(tx, _ALL_HOSTS, template=template)
    else:
        ids = [host_id.value for host_id in host_ids]
        rows = await Database.find_all(tx, _SOME_HOSTS, template=template, host_ids=ids)
    return HostLoads(
        {HostId(row.id): host_of(row) for row in rows}, {HostId(row.id): _load(row) for row in rows}
    )


def _load(row: Any) -> Load:
    return Load(
        sandboxes=row.sandboxes or 0,
        memory_mb=row.sandbox_memory_mb or 0,
        disk_mb=row.disk_mb or 0,
        disks=row.disks or 0,
        vcpus=row.vcpus or 0,
        creates=row.creates or 0,
        has_template=row.has_template or False,
    )


def _created(inserted: CTE, by: Actor, facts: Facts) -> CTE:
    action = AuditAction(Resource.SANDBOX, "create", facts=facts)
    return record_cte(inserted, by, action, resource_id=wire_id(SandboxId.PREFIX, inserted.c.id))


async def insert_sandboxes(
    tx: Transaction,
    hints: Hints,
    *,
    by: Actor,
    ids: Sequence[SandboxId],
    team_id: TeamId,
    host_id: HostId,
    spec: Spec,
    origin: Origin,
    idempotency: Idempotency | None = None,
) -> None:
    """Insert new sandboxes, due for the reconciler at once."""
    limits = spec.limits
    row: dict[str, Any] = {
        "team_id": team_id.value,
        "host_id": host_id.value,
        "status": State.PENDING,
        "desired": Desired.RUNNING,
        "template": spec.template,
        "image": origin.image,
        "snapshot_id": origin.snapshot_id.value if origin.snapshot_id else None,
        "template_id": origin.template_id,
        "build_id": origin.build_id.value if origin.build_id else None,
        "default_user": origin.command_defaults.user,
        "working_dir": origin.command_defaults.working_dir,
        "vcpus": spec.vcpus,
        "memory_mb": spec.memory_mb,
        "disk_size_mb": spec.disk_size_mb,
        "host_tags": list(spec.host_tags),
        "timeout_sec": limits.timeout_sec,
        "expires_at": in_s(limits.lifetime_sec) if limits.lifetime_sec else None,
        "on_expiry": limits.on_expiry,
        "lift_on_pause": limits.lift_on_pause,
        "resume_lifetime_sec": limits.resume_lifetime_sec,
        "keep_memory_on_pause": limits.keep_memory_on_pause,
        "auto_resume": limits.auto_resume,
        "public_ports": list(spec.ingress.public_ports),
        "all_ports_public": spec.ingress.all_ports_public,
        "request_host": spec.ingress.request_host,
        "network": spec.network.to_json(),
        "network_revision": 1,
        "name": spec.name,
        "labels": dict(spec.labels),
        "created_by": actor_json(by) or null(),
        "envs": dict(spec.envs),
        "idempotency_key": idempotency.key if idempotency else None,
        "request_digest": idempotency.digest if idempotency else None,
    }
    rows = insert(sandboxes).values([row | {"id": sandbox_id.value} for sandbox_id in ids])
    inserted = rows.returning(_c.id, _c.team_id).cte("inserted")
    entry = _created(inserted, by, {"template": spec.template})
    await tx.execute(select(hints.notify()).select_from(inserted).add_cte(entry))


async def insert_copies(
    tx: Transaction,
    hints: Hints,
    *,
    by: Actor,
    ids: Sequence[SandboxId],
    source: Sandbox,
    snapshot_id: SnapshotId,
    lifetime_sec: int | None,
) -> bool:
    """Insert copies of `source` that are restored from a snapshot of it; False: `source` has ended.

    They get its limits, `envs`, name, labels and network policy, but not its idempotency key and not what its host reported. They
    do not get a lifetime that its client renews, because nobody would renew theirs, unless they get one of their own: `lifetime_sec`
    from now, with the same rules as that of `source`.
    """
    copies = values(column("id", Uuid), name="copies").data([(sandbox_id.value,) for sandbox_id in ids])
    same = [
        _c[name]
        for name in (
            "team_id", "host_id", "template", "template_id", "default_user", "working_dir", "vcpus", "memory_mb", "disk_size_mb", "timeout_sec", "on_expiry",
            "resume_lifetime_sec", "keep_memory_on_pause", "auto_resume", "public_ports", "all_ports_public", "request_host", "network", "network_revision", "name", "labels", "envs",
            "host_tags",
        )
    ]  # fmt: skip
    if lifetime_sec is None:
        expires_at, lifts = case((_c.lift_on_pause, null()), else_=_c.expires_at), false()
    else:
        expires_at, lifts = in_s(lifetime_sec), _c.lift_on_pause
    maker = literal(actor_json(by), JSONB(none_as_null=True))
    rows = (
        select(
            copies.c.id,
            literal(source.image),
            literal(snapshot_id.value, Uuid),
            expires_at,
            lifts,
            maker,
            *same,
        )
        .select_from(copies.join(sandboxes, true()))
        .where(_c.id == source.sandbox_id.value, is_live())
    )
    own = ["id", "image", "snapshot_id", "expires_at", "lift_on_pause", "created_by"]
    names = [*own, *(copied.name for copied in same)]
    inserted = insert(sandboxes).from_select(names, rows).returning(_c.id, _c.team_id).cte("inserted")
    origin = str(source.sandbox_id)
    entry = _created(inserted, by, {"template": source.template, "forked_from": origin})
    made = await tx.execute(select(inserted.c.id, hints.notify()).select_from(inserted).add_cte(entry))
    if not made.all():
        return False
    action = AuditAction(Resource.SANDBOX, "fork", facts={"count": len(ids)})
    await record(tx, source.team_id, by, action, origin)
    return True
