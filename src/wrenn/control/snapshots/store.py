"""Statements on snapshots and templates.

A snapshot's row is there before its host is asked and goes after its host was told, so nothing on a host is without a row
but what was made too late. Time is the database's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Row,
    ScalarSelect,
    Uuid,
    and_,
    any_,
    cast,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from wrenn.base.errors import Unavailable
from wrenn.base.ids import HostId, SandboxId, SnapshotId, TeamId
from wrenn.base.units import MIB
from wrenn.control.audit import Actor, AuditAction, Resource, Status, record, record_cte
from wrenn.control.db import RELEASED, Database, Leases, Transaction
from wrenn.control.hosts import HostEndpoint, HostSnapshot, hosts
from wrenn.control.quotas import (
    LIMIT_COLUMNS,
    Limits,
    QuotaStatus,
    Usage,
    limits_of,
    lock_owner,
    most_of,
    owned_together,
    owner_limits_of,
    team_limits,
)
from wrenn.control.snapshots.records import (
    PlatformTemplate,
    SnapshotSource,
    StoredSnapshot,
    Template,
    TemplateStatus,
    move,
)
from wrenn.control.snapshots.tables import templates
from wrenn.protocol.vm_platform import VmPlatform

_NAMES_LOCK: Final = 0x6E616D6573
"""Advisory lock of whoever claims a name: "names"."""

_c = templates.c
LEASES: Final = Leases(templates)


def _template(row: Row[Any]) -> Template:
    return Template(
        name=row.name,
        snapshot_id=SnapshotId(row.id),
        host_id=HostId(row.host_id),
        image=row.image,
        vcpus=row.vcpus,
        memory_mb=row.memory_mb,
        disk_size_mb=row.disk_size_mb,
        size_bytes=row.size_bytes,
        created_at=row.created_at,
        platform=VmPlatform.from_json(row.platform),
    )


def _of_team(team_id: TeamId) -> ColumnElement[bool]:
    return _ready(literal(team_id.value, Uuid))


def _ready(team_id: ColumnElement[Any]) -> ColumnElement[bool]:
    return _ready_of(_c.team_id == team_id)


def _ready_of(whose: ColumnElement[bool]) -> ColumnElement[bool]:
    return and_(whose, _c.status == TemplateStatus.READY, _c.name.is_not(None))


async def find(tx: Transaction, team_id: TeamId, name: str) -> Template | None:
    """Return the team's template of this name; None: there is none."""
    row = (await tx.execute(select(templates).where(_of_team(team_id), _c.name == name))).one_or_none()
    return None if row is None else _template(row)


def snapshot_mb(team_id: ColumnElement[Any]) -> ScalarSelect[int]:
    """SQL expression: the size of the team's templates, in MB."""
    return _taken_mb(_ready(team_id))


def snapshot_mb_of(owned: CTE) -> ScalarSelect[int]:
    """SQL expression: the size of the templates of all these teams, in MB."""
    return _taken_mb(_ready_of(_c.team_id.in_(select(owned.c.team_id))))


def _taken_mb(which: ColumnElement[bool]) -> ScalarSelect[int]:
    taken = func.coalesce(func.sum(_c.size_bytes), 0)
    return select(cast(func.ceil(taken / float(MIB)), BigInteger)).where(which).scalar_subquery()


async def quota_status(tx: Transaction, team_id: TeamId, defaults: Limits) -> QuotaStatus:
    """Read the team's limit and usage of template storage, under a lock until the transaction ends."""
    await lock_owner(tx, team_id)
    whose = literal(team_id.value, Uuid)
    owned = owned_together(whose)
    most = most_of(owned).subquery("most")
    found = await tx.execute(
        select(
            snapshot_mb(whose).label("taken"),
            snapshot_mb_of(owned).label("owner_taken"),
            most,
            *LIMIT_COLUMNS,
        ).select_from(most.outerjoin(team_limits, team_limits.c.team_id == team_id.value))
    )
    row = found.one()
    owner = QuotaStatus(owner_limits_of(row, defaults), Usage(snapshot_mb=row.owner_taken))
    return QuotaStatus(limits_of(row).over(defaults), Usage(snapshot_mb=row.taken), owner)


async def of_team(database: Database, team_id: TeamId) -> list[Template]:
    """Return the team's templates, newest first."""
    found = await database.execute(
        select(templates).where(_of_team(team_id)).order_by(_c.created_at.desc(), _c.name), repeatable=True
    )
    return [_template(row) for row in found]


def _is_for(team_id: TeamId) -> ColumnElement[bool]:
    """SQL condition: the team's sandboxes may run on the host."""
    return and_(
        hosts.c.deleted_at.is_(None), or_(hosts.c.team_id.is_(None), hosts.c.team_id == team_id.value)
    )


async def images(database: Database, team_id: TeamId) -> list[PlatformTemplate]:
    """Return the platform's templates for a team: the images that regular hosts and its own report, by name."""
    name = func.unnest(hosts.c.templates).label("name")
    reported = select(name, hosts.c.created_at).where(_is_for(team_id)).subquery()
    found = await database.execute(
        select(reported.c.name, func.min(reported.c.created_at).label("created_at"))
        .group_by(reported.c.name)
        .order_by(reported.c.name),
        repeatable=True,
    )
    return [PlatformTemplate(row.name, row.created_at) for row in found]


async def lock_names(tx: Transaction) -> None:
    """Let nobody else claim a template name until this transaction ends."""
    await tx.execute(select(func.pg_advisory_xact_lock(_NAMES_LOCK)))


async def is_image(tx: Transaction, team_id: TeamId, name: str) -> bool:
    """Whether a host for this team's sandboxes reports an image of this name."""
    found = await tx.execute(
        select(func.count()).where(_is_for(team_id), literal(name) == any_(hosts.c.templates))
    )
    return found.scalar_one() > 0


async def statuses(tx: Transaction, team_id: TeamId, name: str) -> set[TemplateStatus]:
    """Return the statuses of the team's snapshots of this name that are not being removed."""
    found = await tx.execute(
        select(_c.status).where(
            _c.team_id == team_id.value, _c.name == name, _c.status != TemplateStatus.REMOVING
        )
    )
    return {TemplateStatus(row.status) for row in found}


async def insert_pending(
    tx: Transaction,
    snapshot_id: SnapshotId,
    source: SnapshotSource,
    *,
    name: str | None,
    owner: str,
    lease_s: float,
) -> None:
    """Insert a snapshot that is about to be taken.

    Raises:
        Unavailable: its host was deleted.
    """
    # The host cannot be deleted until this transaction ends, and a later deletion finds the row.
    host = await tx.execute(
        select(hosts.c.id)
        .where(hosts.c.id == source.host.host_id.value, hosts.c.deleted_at.is_(None))
        .with_for_update(read=True, key_share=True)
    )
    if host.one_or_none() is None:
        raise Unavailable("The host of this sandbox was removed.")
    await tx.execute(
        insert(templates).values(
            id=snapshot_id.value,
            team_id=source.team_id.value,
            host_id=source.host.host_id.value,
            name=name,
            image=source.image,
            vcpus=source.vcpus,
            memory_mb=source.memory_mb,
            disk_size_mb=source.disk_size_mb,
            sandbox_id=source.sandbox_id.value,
            status=TemplateStatus.PENDING,
            **LEASES.grant(owner, lease_s),
        )
    )


def _leased(snapshot_id: SnapshotId, owner: str) -> Sequence[Any]:
    return LEASES.is_held(snapshot_id.value, owner), _c.status == TemplateStatus.PENDING


async def lock_lease(tx: Transaction, snapshot_id: SnapshotId, *, owner: str) -> TeamId | None:
    """Lock the snapshot and return its team if this owner holds the lease; None: the lease was lost."""
    found = await tx.execute(select(_c.team_id).where(*_leased(snapshot_id, owner)).with_for_update())
    row = found.one_or_none()
    return None if row is None else TeamId(row.team_id)


async def publish(
    tx: Transaction, snapshot_id: SnapshotId, taken: HostSnapshot, *, owner: str, by: Actor, defaults: Limits
) -> tuple[Template, list[SnapshotId]] | None:
    """Make the snapshot a template, in place of the one that had its name; None: the lease was lost.

    Returns it, and what it replaced, which is now to be removed.

    Raises:
        QuotaExceeded: it takes more than the team has left.
    """
    team_id = await lock_lease(tx, snapshot_id, owner=owner)
    if team_id is None:
        return None
    mine = select(_c.team_id, _c.name).where(_c.id == snapshot_id.value).subquery()
    replaced = await tx.execute(
        update(templates)
        .where(_c.team_id == mine.c.team_id, _c.name == mine.c.name, _c.status == TemplateStatus.READY)
        .values(status=move(TemplateStatus.READY, TemplateStatus.REMOVING))
        .returning(_c.id)
    )
    old = [SnapshotId(row.id) for row in replaced]
    (await quota_status(tx, team_id, defaults)).require_within_quota(
        Usage(snapshot_mb=-(-taken.size_b // MIB))
    )
    written = await tx.execute(
        update(templates)
        .where(_c.id == snapshot_id.value)
        .values(
            status=move(TemplateStatus.PENDING, TemplateStatus.READY),
            size_bytes=taken.size_b,
            vcpus=taken.vcpus or _c.vcpus,
            memory_mb=taken.memory_mb or _c.memory_mb,
            platform=taken.platform.to_json(),
            **RELEASED,
            created_at=func.now(),
        )
        .returning(*templates.c)
    )
    row = written.one()
    action = AuditAction(
        Resource.SNAPSHOT,
        "create",
        facts={"sandbox_id": str(SandboxId(row.sandbox_id)), "replaced": bool(old)},
    )
    await record(tx, team_id, by, action, row.name)
    return _template(row), old


async def retire(database: Database, snapshot_id: SnapshotId, *, owner: str) -> bool:
    """Mark a pending snapshot for removal; False: this owner does not hold the lease any more."""
    found = await database.execute(
        update(templates)
        .where(*_leased(snapshot_id, owner))
        .values(status=move(TemplateStatus.PENDING, TemplateStatus.REMOVING))
        .returning(_c.id)
    )
    return found.one_or_none() is not None


_DELETED: Final = AuditAction(Resource.SNAPSHOT, "delete", Status.WARNING)


async def retire_by_name(database: Database, team_id: TeamId, name: str, *, by: Actor) -> SnapshotId | None:
    """Mark the team's template of this name for removal and return it; None: there is none."""
    retired = (
        update(templates)
        .where(_of_team(team_id), _c.name == name)
        .values(status=move(TemplateStatus.READY, TemplateStatus.REMOVING))
        .returning(_c.id, _c.team_id, _c.name)
        .cte("retired")
    )
    entry = record_cte(retired, by, _DELETED, resource_id=retired.c.name)
    found = await database.execute(select(retired.c.id).add_cte(entry))
    row = found.one_or_none()
    return None if row is None else SnapshotId(row.id)


async def retire_all(tx: Transaction, team_id: TeamId, *, by: Actor) -> None:
    """Mark all snapshots of a team for removal, as the team is deleted."""
    retired = (
        update(templates)
        .where(_of_team(team_id))
        .values(status=move(TemplateStatus.READY, TemplateStatus.REMOVING))
        .returning(_c.team_id, _c.name)
        .cte("retired")
    )
    entry = record_cte(retired, by, _DELETED, resource_id=retired.c.name)
    await tx.execute(select(func.count()).select_from(retired).add_cte(entry))
    # And what has no name or is not ready, which nobody knows of.
    for status in (TemplateStatus.PENDING, TemplateStatus.READY):
        await tx.execute(
            update(templates)
            .where(_c.team_id == team_id.value, _c.status == status)
            .values(status=move(status, TemplateStatus.REMOVING))
        )


async def retire_on_hosts(tx: Transaction, host_ids: Collection[HostId], *, by: Actor) -> None:
    """Mark all snapshots of hosts that are deleted for removal; `delete_on_deleted_hosts` removes their rows."""
    on_hosts = _c.host_id.in_([host_id.value for host_id in host_ids])
    retired = (
        update(templates)
        .where(on_hosts, _c.status == TemplateStatus.READY, _c.name.is_not(None))
        .values(status=move(TemplateStatus.READY, TemplateStatus.REMOVING))
        .returning(_c.team_id, _c.name)
        .cte("retired")
    )
    entry = record_cte(retired, by, _DELETED, resource_id=retired.c.name)
    await tx.execute(select(func.count()).select_from(retired).add_cte(entry))
    # And what has no name or is not ready, which nobody knows of: its maker loses the lease.
    await tx.execute(
        update(templates)
        .where(on_hosts, _c.status.in_([TemplateStatus.PENDING, TemplateStatus.READY]))
        .values(status=TemplateStatus.REMOVING)
    )


async def names_on_host(tx: Transaction, host_id: HostId) -> list[str]:
    """Return the names of all templates that lie on a host, of whatever team, in order."""
    found = await tx.execute(
        select(_c.name).where(_ready_of(_c.host_id == host_id.value)).order_by(_c.name, _c.id)
    )
    return [row.name for row in found]


async def delete_on_deleted_hosts(tx: Transaction) -> None:
    """Delete the rows of snapshots that are being removed and whose host was deleted: nobody can be asked to remove them."""
    gone = select(hosts.c.id).where(hosts.c.deleted_at.is_not(None))
    await tx.execute(delete(templates).where(_c.status == TemplateStatus.REMOVING, _c.host_id.in_(gone)))


async def retire_abandoned(tx: Transaction) -> list[tuple[SnapshotId, bool]]:
    """Mark pending snapshots whose lease expired for removal: which, and whether each belongs to a fork."""
    found = await tx.execute(
        update(templates)
        .where(_c.status == TemplateStatus.PENDING, _c.lease_until < func.now())
        .values(status=move(TemplateStatus.PENDING, TemplateStatus.REMOVING))
        .returning(_c.id, _c.name)
    )
    return [(SnapshotId(row.id), row.name is None) for row in found]


async def on_host(database: Database, host_id: HostId) -> list[StoredSnapshot]:
    """Return all snapshots of a host."""
    return await _stored(database, _c.host_id == host_id.value)


async def hosts_with_removals(database: Database) -> set[HostId]:
    """Return the hosts that have snapshots to be removed."""
    found = await database.execute(
        select(_c.host_id).where(_c.status == TemplateStatus.REMOVING).distinct(), repeatable=True
    )
    return {HostId(row.host_id) for row in found}


async def existing_among(database: Database, ids: Collection[SnapshotId]) -> set[SnapshotId]:
    """Return those ids that have a row, on whichever host."""
    if not ids:
        return set()
    found = await database.execute(
        select(_c.id).where(_c.id.in_([snapshot_id.value for snapshot_id in ids])), repeatable=True
    )
    return {SnapshotId(row.id) for row in found}


async def load(database: Database, snapshot_id: SnapshotId) -> StoredSnapshot | None:
    """Return one snapshot; None: there is none."""
    found = await _stored(database, _c.id == snapshot_id.value)
    return found[0] if found else None


async def _stored(database: Database, *conditions: Any) -> list[StoredSnapshot]:
    found = await database.execute(
        select(_c.id, _c.host_id, _c.status, hosts.c.address)
        .join_from(templates, hosts, hosts.c.id == _c.host_id)
        .where(*conditions),
        repeatable=True,
    )
    return [
        StoredSnapshot(
            SnapshotId(row.id), HostEndpoint(HostId(row.host_id), row.address), TemplateStatus(row.status)
        )
        for row in found
    ]


async def delete_row(database: Database, snapshot_id: SnapshotId) -> None:
    """Delete the row of a snapshot that its host has removed."""
    await database.execute(
        delete(templates).where(_c.id == snapshot_id.value, _c.status == TemplateStatus.REMOVING)
    )
