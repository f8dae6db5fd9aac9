"""Statements on images. Time is the database's.

An image's row is there before its host is asked to make it, and goes after hosts and store have removed it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Row,
    Text,
    Uuid,
    and_,
    column,
    delete,
    exists,
    func,
    insert,
    not_,
    or_,
    select,
    table,
    update,
)

from wrenn.base.errors import Unavailable
from wrenn.base.ids import HostId, ImageId, TeamId
from wrenn.control.db import RELEASED, Database, Leases, Transaction
from wrenn.control.hosts import hosts
from wrenn.control.images.records import ImageKind, ImageStatus, StoredImage, move, owner_name
from wrenn.control.images.tables import images

_OWNER_LOCK: Final = 0x696D6773
"""Class of the advisory locks of owners: "imgs"."""
REMOVALS: Final = 1000
"""Images that are looked at in one round of the sweep."""

# What names images; these features are above this one.
_templates = table(
    "templates", column("image_id", Uuid), column("stored_image_id", Uuid), column("status", Text)
)
_sandboxes = table("sandboxes", column("stored_image_id", Uuid), column("status", Text))
_c = images.c
LEASES: Final = Leases(images)
_COLUMNS: Final = (_c.id, _c.team_id, _c.kind, _c.status, _c.host_id, _c.manifest_digest, _c.key_id)


def _image(row: Row[*tuple[Any, ...]]) -> StoredImage:
    return StoredImage(
        ImageId(row.id),
        None if row.team_id is None else TeamId(row.team_id),
        ImageKind(row.kind),
        ImageStatus(row.status),
        None if row.host_id is None else HostId(row.host_id),
        row.manifest_digest,
        row.key_id,
    )


def _is_of(team_id: TeamId | None) -> ColumnElement[bool]:
    return _c.team_id.is_(None) if team_id is None else _c.team_id == team_id.value


async def lock_owner(tx: Transaction, owner: str) -> None:
    """Let neither a pending image of this owner be inserted nor its chunks be deleted elsewhere until this transaction ends."""
    await tx.execute(select(func.pg_advisory_xact_lock(_OWNER_LOCK, func.hashtext(owner))))


async def insert_pending(
    tx: Transaction,
    image_id: ImageId,
    *,
    team_id: TeamId | None,
    host_id: HostId,
    is_uploaded: bool,
    kind: ImageKind,
    key_id: str | None,
    owner: str,
    lease_s: float,
) -> None:
    """Insert an image that is about to be made on a host.

    Raises:
        Unavailable: the host was deleted.
    """
    host = await tx.execute(
        select(hosts.c.id)
        .where(hosts.c.id == host_id.value, hosts.c.deleted_at.is_(None))
        .with_for_update(read=True, key_share=True)
    )
    if host.one_or_none() is None:
        raise Unavailable("The host of this image was removed.")
    await lock_owner(tx, owner_name(team_id))
    await tx.execute(
        insert(images).values(
            id=image_id.value,
            team_id=None if team_id is None else team_id.value,
            host_id=host_id.value if is_uploaded else None,
            status=ImageStatus.PENDING,
            kind=kind,
            key_id=key_id,
            **LEASES.grant(owner, lease_s),
        )
    )


async def begin_upload(tx: Transaction, image_id: ImageId, host_id: HostId, *, owner: str) -> bool:
    """Let the host upload a pending image that it was to keep for itself; False: this owner does not hold the lease any more."""
    found = await tx.execute(
        select(_c.team_id).where(LEASES.is_held(image_id.value, owner), _c.status == ImageStatus.PENDING)
    )
    row = found.one_or_none()
    if row is None:
        return False
    await lock_owner(tx, owner_name(None if row.team_id is None else TeamId(row.team_id)))
    changed = await tx.execute(
        update(images)
        .where(LEASES.is_held(image_id.value, owner), _c.status == ImageStatus.PENDING)
        .values(host_id=host_id.value)
        .returning(_c.id)
    )
    return changed.one_or_none() is not None


async def add_granted(
    database: Database,
    image_id: ImageId,
    host_id: HostId,
    *,
    granted_b: int,
    limit_b: int,
    together_b: int | None,
) -> bool:
    """Count bytes that the host may write for a pending image, until its manifest says what it has.

    False: the image would have more than `limit_b`, or all pending images of its team more than `together_b` (None: any
    number), and it is not the oldest of those.
    """
    permitted = _c.stored_bytes + granted_b <= limit_b
    if together_b is not None:
        other = images.alias("other")
        is_one = and_(
            other.c.team_id == _c.team_id,
            other.c.id != _c.id,
            other.c.status == ImageStatus.PENDING,
            other.c.stored_bytes > 0,
        )
        is_older = or_(
            other.c.created_at < _c.created_at,
            and_(other.c.created_at == _c.created_at, other.c.id < _c.id),
        )
        others_b = select(func.coalesce(func.sum(other.c.stored_bytes), 0)).where(is_one).scalar_subquery()
        permitted = and_(
            permitted,
            or_(
                others_b + _c.stored_bytes + granted_b <= together_b,
                not_(exists(select(other.c.id).where(is_one, is_older))),
            ),
        )
    found = await database.execute(
        update(images)
        .where(
            _c.id == image_id.value,
            _c.host_id == host_id.value,
            _c.status == ImageStatus.PENDING,
            permitted,
        )
        .values(stored_bytes=_c.stored_bytes + granted_b)
        .returning(_c.id)
    )
    return found.one_or_none() is not None


async def granted_b(database: Database, image_id: ImageId) -> int:
    """Return what `add_granted` has counted for an image."""
    found = await database.execute(select(_c.stored_bytes).where(_c.id == image_id.value))
    return found.scalar_one_or_none() or 0


async def record_manifest(
    database: Database, image_id: ImageId, host_id: HostId, *, digest: str, stored_b: int
) -> bool:
    """Store that the manifest of a pending image is in the store; False: the image is not pending on this host any more."""
    found = await database.execute(
        update(images)
        .where(_c.id == image_id.value, _c.host_id == host_id.value, _c.status == ImageStatus.PENDING)
        .values(manifest_digest=digest, stored_bytes=stored_b)
        .returning(_c.id)
    )
    return found.one_or_none() is not None


async def publish(
    tx: Transaction,
    image_id: ImageId,
    *,
    owner: str,
    disk_size_mb: int,
    reference: str | None,
    config: Mapping[str, Any],
) -> int | None:
    """Make a pending image ready; returns its size in the store. None: the lease was lost, or the store lacks it."""
    found = await tx.execute(
        update(images)
        .where(
            LEASES.is_held(image_id.value, owner),
            _c.status == ImageStatus.PENDING,
            _c.manifest_digest.is_not(None),
        )
        .values(
            status=move(ImageStatus.PENDING, ImageStatus.READY),
            host_id=None,
            disk_size_mb=disk_size_mb,
            reference=reference,
            config=dict(config),
            **RELEASED,
        )
        .returning(_c.stored_bytes)
    )
    row = found.one_or_none()
    return None if row is None else row.stored_bytes


def _retired(status: ImageStatus, *where: ColumnElement[bool]) -> Any:
    return (
        update(images)
        .where(_c.status == status, *where)
        .values(status=move(status, ImageStatus.REMOVING), **RELEASED)
        .returning(_c.id)
    )


async def give_up(tx: Transaction, image_id: ImageId, *, owner: str) -> bool:
    """Mark a pending image for removal; False: this owner does not hold the lease any more."""
    found = await tx.execute(_retired(ImageStatus.PENDING, LEASES.is_held(image_id.value, owner)))
    return found.one_or_none() is not None


async def retire(tx: Transaction, image_ids: Collection[ImageId]) -> None:
    """Mark images that are ready for removal, as no template is made of them any more; does nothing to others.

    Their files stay while a sandbox or snapshot uses them.
    """
    await tx.execute(_retired(ImageStatus.READY, _c.id.in_([image_id.value for image_id in image_ids])))


async def retire_all(tx: Transaction, team_id: TeamId) -> None:
    """Mark all images of a team for removal; whoever makes one loses its lease."""
    for status in (ImageStatus.PENDING, ImageStatus.READY):
        await tx.execute(_retired(status, _c.team_id == team_id.value))


async def retire_abandoned(database: Database) -> list[ImageId]:
    """Mark pending images whose lease expired for removal."""
    found = await database.execute(_retired(ImageStatus.PENDING, _c.lease_until < func.now()))
    return [ImageId(row.id) for row in found]


async def retire_saved_states(database: Database) -> None:
    """Mark saved states for removal that are not those of a live sandbox or a ready snapshot any more."""
    snapshot = exists(
        select(_templates.c.stored_image_id).where(
            _templates.c.stored_image_id == _c.id, _templates.c.status == "ready"
        )
    )
    await database.execute(_retired(ImageStatus.READY, _c.kind == ImageKind.SNAPSHOT, ~snapshot))
    named = exists(
        select(_sandboxes.c.stored_image_id).where(
            _sandboxes.c.stored_image_id == _c.id, _sandboxes.c.status.not_in(["stopped", "error"])
        )
    )
    await database.execute(_retired(ImageStatus.READY, _c.kind == ImageKind.SANDBOX, ~named))


async def removing(database: Database, *, after: ImageId | None) -> tuple[list[StoredImage], ImageId | None]:
    """Return the next images behind `after` that are being removed, and where to go on; None: from the beginning.

    What cannot be removed yet, for whatever reason, does not hide the others.
    """
    behind = [] if after is None else [_c.id > after.value]
    found = await database.execute(
        select(*_COLUMNS).where(_c.status == ImageStatus.REMOVING, *behind).order_by(_c.id).limit(REMOVALS),
        repeatable=True,
    )
    page = [_image(row) for row in found]
    return page, page[-1].image_id if len(page) == REMOVALS else None


async def existing_among(database: Database, ids: Collection[ImageId]) -> set[ImageId]:
    """Return those ids that have a row."""
    if not ids:
        return set()
    found = await database.execute(
        select(_c.id).where(_c.id.in_([image_id.value for image_id in ids])), repeatable=True
    )
    return {ImageId(row.id) for row in found}


async def delete_row(tx: Transaction, image_id: ImageId) -> bool:
    """Delete the row of an image that hosts and store have removed; False: a template that is being removed still names it."""
    named = exists(select(_templates.c.image_id).where(_templates.c.image_id == _c.id))
    found = await tx.execute(
        delete(images)
        .where(_c.id == image_id.value, _c.status == ImageStatus.REMOVING, ~named)
        .returning(_c.id)
    )
    return found.one_or_none() is not None


async def find_visible(
    database: Database, image_id: ImageId, *, team_id: TeamId | None
) -> StoredImage | None:
    """Return an image that a host may read: of all owners; with a team, of this one and of the platform."""
    whose = [] if team_id is None else [or_(_c.team_id.is_(None), _c.team_id == team_id.value)]
    found = await database.execute(select(*_COLUMNS).where(_c.id == image_id.value, *whose), repeatable=True)
    row = found.one_or_none()
    return None if row is None else _image(row)


@dataclass(frozen=True, slots=True)
class CollectionStart:
    """What an owner had when a garbage collection began, and when that was by the database's clock."""

    at: datetime
    images: Sequence[StoredImage]


async def begin_collection(tx: Transaction, owner: str, team_id: TeamId | None) -> CollectionStart | None:
    """Return the images of an owner; None: one is being uploaded. Of those that are not, no chunk is relied on."""
    await lock_owner(tx, owner)
    # Read after the lock was taken: an insertion that waits for it gets a later time.
    at = (await tx.execute(select(func.clock_timestamp().label("at")))).one().at
    found = [_image(row) for row in await tx.execute(select(*_COLUMNS).where(_is_of(team_id)))]
    if any(image.status is ImageStatus.PENDING and image.host_id is not None for image in found):
        return None
    return CollectionStart(at, found)


async def keep_alive(tx: Transaction) -> None:
    """Use a transaction, which PostgreSQL ends when it is idle for long."""
    await tx.execute(select(1))


async def is_unchanged(
    tx: Transaction, owner: str, team_id: TeamId | None, known: Collection[ImageId]
) -> bool:
    """Lock the owner; return whether it has no other images than these. None is inserted until the transaction ends."""
    await lock_owner(tx, owner)
    # Not by their times: the clock may have been set back since, or be another machine's.
    is_uploaded = or_(_c.status != ImageStatus.PENDING, _c.host_id.is_not(None))
    found = await tx.execute(select(_c.id).where(_is_of(team_id), is_uploaded))
    return {ImageId(row.id) for row in found} <= set(known)
