"""Statements on snapshots, named or hidden; templates as their users see them are `wrenn.control.templates`.

A snapshot's row is there before its host is asked and goes after its host was told, so nothing on a host is without a row
but what was made too late. Time is the database's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Uuid, and_, delete, exists, func, insert, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from wrenn.base.errors import Unavailable
from wrenn.base.ids import HostId, ImageId, SandboxId, SnapshotId, TeamId
from wrenn.control.audit import PLATFORM_TEAM, Actor, AuditAction, Resource, actor_json, record, record_cte
from wrenn.control.db import RELEASED, Database, Leases, Transaction, is_none_of, span_s
from wrenn.control.hosts import HostEndpoint, HostSnapshot, hosts
from wrenn.control.images import is_collection_overdue
from wrenn.control.quotas import Limits
from wrenn.control.snapshots.records import NewVersion, SnapshotFiles, SnapshotSource, StoredSnapshot
from wrenn.control.templates import (
    DELETED,
    LATEST,
    Template,
    TemplateStatus,
    TemplateType,
    count_layers_again,
    get_template,
    lock_names,
    move,
    own_layers_b,
    require_space,
    set_tags,
    snapshot_copies,
    template_tags,
    templates,
    version_count,
)

_c = templates.c
_copies = snapshot_copies.c
_COPY_LIFE_S: Final = 24 * 3600.0
"""A copy from which no sandbox was created for so long is removed from its host."""
LEASES: Final = Leases(templates)


def _ready_of(whose: ColumnElement[bool]) -> ColumnElement[bool]:
    return and_(whose, _c.status == TemplateStatus.READY, _c.name.is_not(None))


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
            image_id=_image_id(source.image),
            vcpus=source.vcpus,
            memory_mb=source.memory_mb,
            disk_size_mb=source.disk_size_mb,
            sandbox_id=source.sandbox_id.value,
            status=TemplateStatus.PENDING,
            **LEASES.grant(owner, lease_s),
        )
    )


def _image_id(image: str) -> UUID | None:
    """Return the id of an image in the store; None: hosts built it themselves."""
    image_id = ImageId.find(image)
    return None if image_id is None else image_id.value


def _leased(snapshot_id: SnapshotId, owner: str) -> Sequence[Any]:
    return LEASES.is_held(snapshot_id.value, owner), _c.status == TemplateStatus.PENDING


async def lock_lease(tx: Transaction, snapshot_id: SnapshotId, *, owner: str) -> TeamId | None:
    """Lock the snapshot and return its team if this owner holds the lease; None: the lease was lost."""
    found = await tx.execute(select(_c.team_id).where(*_leased(snapshot_id, owner)).with_for_update())
    row = found.one_or_none()
    return None if row is None else TeamId(row.team_id)


async def publish(
    tx: Transaction,
    snapshot_id: SnapshotId,
    taken: HostSnapshot,
    *,
    owner: str,
    by: Actor,
    defaults: Limits,
    version: NewVersion | None = None,
) -> tuple[Template, list[UUID]] | None:
    """Make the snapshot the latest version of its template; None: the lease was lost.

    `version`: which one it becomes, of a hidden snapshot.

    Returns it, and the snapshots that it replaced, which are now to be removed.

    Raises:
        QuotaExceeded: it takes more than the team has left.
    """
    await lock_names(tx)
    team_id = await lock_lease(tx, snapshot_id, owner=owner)
    if team_id is None:
        return None
    written = await tx.execute(
        update(templates)
        .where(_c.id == snapshot_id.value)
        .values(
            status=move(TemplateStatus.PENDING, TemplateStatus.READY),
            **_taken_values(taken),
            created_by=actor_json(by),
            **({} if version is None else _version_values(version)),
            **RELEASED,
            created_at=func.now(),
        )
        .returning(_c.name, _c.sandbox_id)
    )
    row = written.one()
    tags = [LATEST] if version is None else version.tags
    owner_id = team_id if version is None else version.owner
    former = 0 if owner_id is None else await version_count(tx, owner_id, row.name) - 1
    old = await set_tags(tx, owner_id, row.name, tags, snapshot_id.value)
    # After what it replaces has gone: layers that only that had are its own now.
    size_b = taken.size_b + await own_layers_b(tx, owner_id, snapshot_id.value, taken.layers)
    await tx.execute(update(templates).where(_c.id == snapshot_id.value).values(size_bytes=size_b))
    if owner_id is not None:
        grown = await version_count(tx, owner_id, row.name) - former
        await require_space(tx, owner_id, size_b, defaults, new_templates=max(0, grown))
    action = AuditAction(
        Resource.SNAPSHOT,
        "create",
        facts={"sandbox_id": str(SandboxId(row.sandbox_id)), "replaced": bool(old)},
    )
    await record(tx, team_id, by, action, row.name)
    template = await get_template(tx, snapshot_id.value)
    assert template is not None, "it was written in this transaction"
    return template, old


async def keep_hidden(tx: Transaction, snapshot_id: SnapshotId, taken: HostSnapshot, *, owner: str) -> bool:
    """Make a hidden snapshot ready, without a name; False: the lease was lost."""
    written = await tx.execute(
        update(templates)
        .where(*_leased(snapshot_id, owner), _c.name.is_(None))
        .values(
            status=move(TemplateStatus.PENDING, TemplateStatus.READY),
            **_taken_values(taken),
            **RELEASED,
        )
        .returning(_c.id)
    )
    return written.one_or_none() is not None


def _taken_values(taken: HostSnapshot) -> dict[str, Any]:
    return {
        "size_bytes": taken.size_b,
        "layers": dict(taken.layers),
        "vcpus": taken.vcpus or _c.vcpus,
        "memory_mb": taken.memory_mb or _c.memory_mb,
        "platform": taken.platform.to_json(),
    }


def _version_values(version: NewVersion) -> dict[str, Any]:
    return {
        "team_id": None if version.owner is None else version.owner.value,
        "name": version.name,
        "default_user": version.defaults.user,
        "default_env": dict(version.defaults.env),
        "working_dir": version.defaults.working_dir,
        "labels": dict(version.labels),
        "build_id": version.build_id.value,
        "build_key": version.build_key,
        "built_at": version.built_at or func.now(),
    }


async def retire(database: Database, snapshot_id: SnapshotId, *, owner: str) -> bool:
    """Mark a pending snapshot for removal; False: this owner does not hold the lease any more."""
    found = await database.execute(
        update(templates)
        .where(*_leased(snapshot_id, owner))
        .values(status=move(TemplateStatus.PENDING, TemplateStatus.REMOVING))
        .returning(_c.id)
    )
    return found.one_or_none() is not None


async def retire_all(tx: Transaction, team_id: TeamId, *, by: Actor) -> None:
    """Mark all snapshots of a team for removal, as the team is deleted, and delete its tags."""
    retired = (
        update(templates)
        .where(_ready_of(_c.team_id == team_id.value), _c.type == TemplateType.SNAPSHOT)
        .values(status=move(TemplateStatus.READY, TemplateStatus.REMOVING))
        .returning(_c.team_id, _c.name)
        .cte("retired")
    )
    entry = record_cte(retired, by, DELETED, resource_id=retired.c.name)
    await tx.execute(select(func.count()).select_from(retired).add_cte(entry))
    # And what has no name or is not ready, which nobody knows of.
    for status in (TemplateStatus.PENDING, TemplateStatus.READY):
        await tx.execute(
            update(templates)
            .where(_c.team_id == team_id.value, _c.status == status, _c.type == TemplateType.SNAPSHOT)
            .values(status=move(status, TemplateStatus.REMOVING))
        )
    await tx.execute(delete(template_tags).where(template_tags.c.team_id == team_id.value))


async def retire_on_hosts(tx: Transaction, host_ids: Collection[HostId], *, by: Actor) -> None:
    """Mark all snapshots of hosts that are deleted for removal; `delete_on_deleted_hosts` removes their rows.

    Those that are in the store stay, unless they are of a team's own host: they are never restored on a host of the platform.
    """
    ids = [host_id.value for host_id in host_ids]
    await tx.execute(delete(snapshot_copies).where(_copies.host_id.in_(ids)))
    on_hosts = and_(_c.host_id.in_(ids), _goes_with_its_host())
    retired = (
        update(templates)
        .where(on_hosts, _c.status == TemplateStatus.READY, _c.name.is_not(None))
        .values(status=move(TemplateStatus.READY, TemplateStatus.REMOVING))
        .returning(
            _c.id, func.coalesce(_c.team_id, literal(PLATFORM_TEAM.value, Uuid)).label("team_id"), _c.name
        )
        .cte("retired")
    )
    entry = record_cte(retired, by, DELETED, resource_id=retired.c.name)
    await lock_names(tx)
    named = await tx.execute(select(retired.c.id).add_cte(entry))
    await count_layers_again(tx, [row.id for row in named])
    # And what has no name or is not ready, which nobody knows of: its maker loses the lease.
    await tx.execute(
        update(templates)
        .where(on_hosts, _c.status.in_([TemplateStatus.PENDING, TemplateStatus.READY]))
        .values(status=TemplateStatus.REMOVING)
    )
    lost = select(_c.id).where(on_hosts)
    await tx.execute(delete(template_tags).where(template_tags.c.template_id.in_(lost)))


async def names_on_host(tx: Transaction, host_id: HostId) -> list[str]:
    """Return the names of all templates that would be lost with a host, of whatever team, in order."""
    found = await tx.execute(
        select(_c.name)
        .where(_ready_of(_c.host_id == host_id.value), _goes_with_its_host())
        .order_by(_c.name, _c.id)
    )
    return [row.name for row in found]


def _goes_with_its_host() -> ColumnElement[bool]:
    is_own = exists().where(hosts.c.id == _c.host_id, hosts.c.team_id.is_not(None)).correlate(templates)
    return or_(_c.stored_image_id.is_(None), is_own)


async def delete_on_deleted_hosts(tx: Transaction) -> None:
    """Delete the rows of snapshots that are being removed and whose host was deleted: nobody can be asked to remove them."""
    gone = select(hosts.c.id).where(hosts.c.deleted_at.is_not(None))
    await tx.execute(
        delete(templates).where(_c.status == TemplateStatus.REMOVING, _c.host_id.in_(gone), ~_has_copies())
    )


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
    """Return all snapshots of a host, those included that it fetched."""
    return [
        *await _copies_where(database, _copies.host_id == host_id.value),
        *await _stored(database, _c.host_id == host_id.value),
    ]


async def hosts_with_removals(database: Database) -> set[HostId]:
    """Return the hosts that have snapshots to be removed."""
    taken = select(_c.host_id).where(_c.status == TemplateStatus.REMOVING)
    fetched = (
        select(_copies.host_id)
        .join_from(snapshot_copies, templates, _c.id == _copies.snapshot_id)
        .where(or_(_c.status == TemplateStatus.REMOVING, _is_unused()))
    )
    found = await database.execute(taken.union(fetched), repeatable=True)
    return {HostId(row.host_id) for row in found}


def _is_unused() -> ColumnElement[bool]:
    return _copies.used_at < func.now() - span_s(_COPY_LIFE_S)


def _has_copies() -> ColumnElement[bool]:
    return exists().where(_copies.snapshot_id == _c.id).correlate(templates)


async def _copies_where(database: Database, *conditions: Any) -> list[StoredSnapshot]:
    found = await database.execute(
        select(
            _c.id,
            _copies.host_id,
            _c.status,
            _c.layers,
            _copies.used_at,
            hosts.c.address,
            hosts.c.cert_epoch,
            func.extract("epoch", func.now() - _copies.used_at).label("idle_s"),
            _is_unused().label("is_unused"),
        )
        .join_from(snapshot_copies, templates, _c.id == _copies.snapshot_id)
        .join(hosts, hosts.c.id == _copies.host_id)
        .where(*conditions),
        repeatable=True,
    )
    return [
        StoredSnapshot(
            SnapshotId(row.id),
            HostEndpoint(HostId(row.host_id), row.address, row.cert_epoch),
            TemplateStatus(row.status),
            is_copy=True,
            used_at=row.used_at,
            idle_s=float(row.idle_s),
            is_unused=row.is_unused,
            layers=row.layers or {},
        )
        for row in found
    ]


async def existing_among(database: Database, ids: Collection[SnapshotId]) -> set[SnapshotId]:
    """Return those ids that have a row, on whichever host."""
    if not ids:
        return set()
    found = await database.execute(
        select(_c.id).where(_c.id.in_([snapshot_id.value for snapshot_id in ids])), repeatable=True
    )
    return {SnapshotId(row.id) for row in found}


async def load(database: Database, snapshot_id: SnapshotId) -> list[StoredSnapshot]:
    """Return one snapshot on each of its hosts, the one where it was taken last; none: it has no row."""
    return [
        *await _copies_where(database, _copies.snapshot_id == snapshot_id.value),
        *await _stored(database, _c.id == snapshot_id.value),
    ]


async def _stored(database: Database, *conditions: Any) -> list[StoredSnapshot]:
    found = await database.execute(
        select(_c.id, _c.host_id, _c.status, hosts.c.address, hosts.c.cert_epoch)
        .join_from(templates, hosts, hosts.c.id == _c.host_id)
        .where(*conditions),
        repeatable=True,
    )
    return [
        StoredSnapshot(
            SnapshotId(row.id),
            HostEndpoint(HostId(row.host_id), row.address, row.cert_epoch),
            TemplateStatus(row.status),
        )
        for row in found
    ]


async def delete_row(database: Database, snapshot_id: SnapshotId) -> None:
    """Delete the row of a snapshot that its host has removed, unless other hosts have copies."""
    await database.execute(
        delete(templates).where(
            _c.id == snapshot_id.value, _c.status == TemplateStatus.REMOVING, ~_has_copies()
        )
    )


async def is_unchanged_copy(database: Database, stored: StoredSnapshot) -> bool:
    """Whether no sandbox was created from a copy since it was read."""
    found = await database.execute(select(_copies.host_id).where(*_is_copy(stored), _is_unchanged(stored)))
    return found.one_or_none() is not None


def _is_copy(stored: StoredSnapshot) -> Sequence[ColumnElement[bool]]:
    return (
        _copies.snapshot_id == stored.snapshot_id.value,
        _copies.host_id == stored.host.host_id.value,
    )


def _is_unchanged(stored: StoredSnapshot) -> ColumnElement[bool]:
    return _copies.used_at == stored.used_at


async def delete_copy(database: Database, stored: StoredSnapshot) -> None:
    """Delete the row of a copy that its host has removed, unless it has been used since it was read and its template is not being removed."""
    of_removed = exists().where(_c.id == _copies.snapshot_id, _c.status == TemplateStatus.REMOVING)
    await database.execute(
        delete(snapshot_copies).where(*_is_copy(stored), or_(of_removed, _is_unchanged(stored)))
    )


async def find_files(database: Database, snapshot_id: SnapshotId) -> SnapshotFiles | None:
    """Return where the files of a snapshot are that is not being removed; None: there is no such."""
    found = await _files(database, _c.id == snapshot_id.value, _c.status != TemplateStatus.REMOVING)
    return found[0] if found else None


async def not_stored(
    database: Database,
    *,
    limit: int,
    busy_hosts: Collection[HostId],
    busy_teams: Collection[TeamId],
    except_for: Collection[SnapshotId],
) -> list[SnapshotFiles]:
    """Return templates that are not in the store, whose hosts answer, and that nobody uploads; one of each host in turn, the oldest first.

    Those of a team whose garbage must be collected first are left out. `except_for`: other snapshots than these.
    """
    return await _files(
        database,
        _ready_of(_c.type == TemplateType.SNAPSHOT),
        _c.stored_image_id.is_(None),
        hosts.c.is_reachable,
        hosts.c.deleted_at.is_(None),
        LEASES.is_free(),
        ~is_collection_overdue(_c.team_id),
        is_none_of(_c.host_id, busy_hosts),
        or_(_c.team_id.is_(None), is_none_of(_c.team_id, busy_teams)),
        is_none_of(_c.id, except_for),
        limit=limit,
    )


async def _files(database: Database, *conditions: Any, limit: int | None = None) -> list[SnapshotFiles]:
    turn = func.row_number().over(partition_by=_c.host_id, order_by=_c.created_at)
    found = await database.execute(
        select(_c.id, _c.team_id, _c.host_id, _c.stored_image_id, hosts.c.address, hosts.c.cert_epoch)
        .join_from(templates, hosts, hosts.c.id == _c.host_id)
        .where(*conditions)
        .order_by(turn, _c.created_at)
        .limit(limit),
        repeatable=True,
    )
    return [
        SnapshotFiles(
            SnapshotId(row.id),
            None if row.team_id is None else TeamId(row.team_id),
            HostEndpoint(HostId(row.host_id), row.address, row.cert_epoch),
            None if row.stored_image_id is None else ImageId(row.stored_image_id),
        )
        for row in found
    ]


async def lease_upload(database: Database, snapshot_id: SnapshotId, *, owner: str, lease_s: float) -> bool:
    """Take the lease to upload a snapshot; False: somebody has it, or it is in the store, or is being removed."""
    found = await database.execute(
        update(templates)
        .where(_is_to_be_stored(snapshot_id), LEASES.is_free())
        .values(**LEASES.grant(owner, lease_s))
        .returning(_c.id)
    )
    return found.one_or_none() is not None


async def release_upload(database: Database, snapshot_id: SnapshotId, *, owner: str) -> None:
    """Give the lease to upload a snapshot back."""
    await database.execute(
        update(templates)
        .where(LEASES.is_held(snapshot_id.value, owner), _c.status == TemplateStatus.READY)
        .values(**RELEASED)
    )


async def set_stored(tx: Transaction, snapshot_id: SnapshotId, image_id: ImageId, *, owner: str) -> bool:
    """Store which image a snapshot is in the store, and give the lease back; False: it is lost, or the snapshot is being removed."""
    found = await tx.execute(
        update(templates)
        .where(_is_to_be_stored(snapshot_id), _c.lease_owner == owner)
        .values(stored_image_id=image_id.value, **RELEASED)
        .returning(_c.id)
    )
    return found.one_or_none() is not None


def _is_to_be_stored(snapshot_id: SnapshotId) -> ColumnElement[bool]:
    return and_(
        _c.id == snapshot_id.value,
        _c.type == TemplateType.SNAPSHOT,
        _c.status == TemplateStatus.READY,
        _c.stored_image_id.is_(None),
    )


async def use_copy(database: Database, snapshot_id: SnapshotId, host_id: HostId) -> bool:
    """Store that a host has a copy of a snapshot, or is about to fetch one, and uses it now; False: the snapshot is being removed."""
    ready = select(_c.id, literal(host_id.value, Uuid)).where(
        _c.id == snapshot_id.value, _c.status == TemplateStatus.READY
    )
    found = await database.execute(
        upsert(snapshot_copies)
        .from_select(["snapshot_id", "host_id"], ready.with_for_update(read=True, key_share=True))
        .on_conflict_do_update(
            index_elements=[_copies.snapshot_id, _copies.host_id], set_={"used_at": func.now()}
        )
        .returning(_copies.host_id)
    )
    return found.one_or_none() is not None
