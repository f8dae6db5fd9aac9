"""Statements on templates and their tags. Time is the database's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

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
    exists,
    false,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from wrenn.base.ids import BuildId, HostId, ImageId, SandboxId, TeamId
from wrenn.base.units import MIB
from wrenn.control.audit import PLATFORM_TEAM, Actor, AuditAction, Resource, Status, actor_json, record
from wrenn.control.db import Database, Transaction, span_s
from wrenn.control.hosts import HostStatus, hosts
from wrenn.control.images import ImageKind, ImageStatus, images, retire_images, retire_images_of_team
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
from wrenn.control.templates.records import (
    LATEST,
    Defaults,
    HostBuiltTemplate,
    Reference,
    Template,
    TemplateStatus,
    TemplateType,
    move,
)
from wrenn.control.templates.tables import snapshot_copies, template_tags, templates
from wrenn.protocol.vm_platform import VmPlatform

_NAMES_LOCK: Final = 0x6E616D6573
"""Advisory lock of whoever claims a template's name or changes tags: "names"."""

_c = templates.c
_t = template_tags.c


def is_owned_by(column: ColumnElement[Any], team_id: TeamId | None) -> ColumnElement[bool]:
    """SQL condition: the column names this team, or nobody for the platform."""
    return column.is_(None) if team_id is None else column == team_id.value


def is_ready(team_id: TeamId | None) -> ColumnElement[bool]:
    """SQL condition: a template of this owner that sandboxes can be made from."""
    return and_(is_owned_by(_c.team_id, team_id), _is_named_and_ready())


def _is_named_and_ready() -> ColumnElement[bool]:
    return and_(_c.status == TemplateStatus.READY, _c.name.is_not(None))


_TAGS: Final = func.array(
    select(_t.tag).where(_t.template_id == _c.id).order_by(_t.tag).scalar_subquery()
).label("tags")

_COPIES_LIMIT: Final = 16
"""Hosts that placement prefers for a template: a sandbox on any other costs a fetch."""
_COPIES: Final = func.array(
    select(snapshot_copies.c.host_id)
    .where(snapshot_copies.c.snapshot_id == _c.id)
    .order_by(snapshot_copies.c.used_at.desc())
    .limit(_COPIES_LIMIT)
    .scalar_subquery()
).label("copies")
_COLUMNS: Final = (*templates.c, _TAGS, _COPIES)


def template_of(row: Row[Any]) -> Template:
    """Convert a row with all columns of `templates`, `tags` and `copies`."""
    return Template(
        template_id=row.id,
        team_id=TeamId(row.team_id) if row.team_id else None,
        name=row.name,
        type=TemplateType(row.type),
        tags=tuple(row.tags or ()),
        image=row.image,
        image_id=ImageId(row.image_id) if row.image_id else None,
        host_id=HostId(row.host_id) if row.host_id else None,
        vcpus=row.vcpus,
        memory_mb=row.memory_mb,
        disk_size_mb=row.disk_size_mb,
        vm_platform=VmPlatform.from_json(row.platform),
        size_bytes=row.size_bytes,
        defaults=Defaults(row.default_user, row.working_dir, row.default_env),
        labels=row.labels,
        build_id=BuildId(row.build_id) if row.build_id else None,
        created_by=row.created_by,
        created_at=row.created_at,
        built_at=row.built_at,
        stored_image_id=ImageId(row.stored_image_id) if row.stored_image_id else None,
        copies=frozenset(map(HostId, row.copies or ())),
        sandbox_id=SandboxId(row.sandbox_id) if row.sandbox_id else None,
    )


async def find(tx: Transaction, team_id: TeamId, reference: Reference) -> Template | None:
    """Return the version that a team means by a reference, its own before the platform's; None: there is none."""
    visible = or_(_c.team_id == team_id.value, _c.team_id.is_(None))
    return await _one(tx, visible, reference)


async def find_owned(
    tx: Transaction, team_id: TeamId | None, reference: Reference, *, lock: bool = False
) -> Template | None:
    """Return the version of this owner that a reference means; None: there is none."""
    if lock:
        await lock_names(tx)
    return await _one(tx, is_owned_by(_c.team_id, team_id), reference)


async def _one(tx: Transaction, whose: ColumnElement[bool], reference: Reference) -> Template | None:
    if reference.template_id is not None:
        which = _c.id == reference.template_id
    else:
        which = _c.id.in_(
            select(_t.template_id).where(_t.name == reference.name, _t.tag == (reference.tag or LATEST))
        )
    found = await tx.execute(
        select(*_COLUMNS)
        .where(whose, _is_named_and_ready(), which)
        .order_by(_c.team_id.nulls_last())
        .limit(1)
    )
    row = found.one_or_none()
    return None if row is None else template_of(row)


async def get(tx: Transaction, template_id: UUID) -> Template | None:
    """Return one template of any owner; None: there is no ready one with this id."""
    found = await tx.execute(select(*_COLUMNS).where(_c.id == template_id, _is_named_and_ready()))
    row = found.one_or_none()
    return None if row is None else template_of(row)


async def find_built(
    tx: Transaction, team_id: TeamId | None, build_key: str, *, age_s: float, name: str | None = None
) -> Template | None:
    """Return the template of this owner with the newest content that a build with this key made; None: there is none.

    `age_s`: all of its content was made within so many seconds.

    With a name a version of that name, whose host, if it is a snapshot, can be reached; without one an image.
    """
    is_fresh = _c.built_at > func.now() - span_s(age_s)
    statement = select(*_COLUMNS).where(is_ready(team_id), _c.build_key == build_key, is_fresh)
    if name is None:
        statement = statement.where(_c.type == TemplateType.BASE)
    else:
        is_there = exists().where(hosts.c.id == _c.host_id, hosts.c.is_reachable)
        statement = statement.where(_c.name == name, or_(_c.host_id.is_(None), is_there))
    found = await tx.execute(statement.order_by(_c.built_at.desc(), _c.id).limit(1))
    row = found.one_or_none()
    return None if row is None else template_of(row)


async def owned(database: Database, team_id: TeamId | None, *, name: str | None = None) -> list[Template]:
    """Return the templates of this owner, newest first, or those with this name."""
    statement = select(*_COLUMNS).where(is_ready(team_id))
    if name is not None:
        statement = statement.where(_c.name == name)
    found = await database.execute(statement.order_by(_c.created_at.desc(), _c.name, _c.id), repeatable=True)
    return [template_of(row) for row in found]


async def of_all_owners(database: Database, *, limit: int) -> list[Template]:
    """Return the templates of all teams and the platform, newest first."""
    found = await database.execute(
        select(*_COLUMNS)
        .where(_is_named_and_ready())
        .order_by(_c.created_at.desc(), _c.name, _c.id)
        .limit(limit),
        repeatable=True,
    )
    return [template_of(row) for row in found]


def snapshot_mb(team_id: ColumnElement[Any]) -> ScalarSelect[int]:
    """SQL expression: the size of the team's templates, and of the saved states that the store has of it, in MB."""
    return _taken_mb(_c.team_id == team_id, images.c.team_id == team_id)


def snapshot_mb_of(owned_teams: CTE) -> ScalarSelect[int]:
    """SQL expression: the same of all these teams, in MB."""
    teams = select(owned_teams.c.team_id)
    return _taken_mb(_c.team_id.in_(teams), images.c.team_id.in_(teams))


def template_count(team_id: ColumnElement[Any]) -> ScalarSelect[int]:
    """SQL expression: how many templates and snapshots the team has."""
    return _count(_c.team_id == team_id)


def template_count_of(owned_teams: CTE) -> ScalarSelect[int]:
    """SQL expression: how many all these teams have."""
    return _count(_c.team_id.in_(select(owned_teams.c.team_id)))


def _count(has_template: ColumnElement[bool]) -> ScalarSelect[int]:
    return select(func.count()).where(has_template, _is_named_and_ready()).scalar_subquery()


async def version_count(tx: Transaction, team_id: TeamId, name: str) -> int:
    """Return how many versions of a name the team has."""
    found = await tx.execute(select(func.count()).where(is_ready(team_id), _c.name == name))
    return found.scalar_one()


def _taken_mb(has_template: ColumnElement[bool], has_image: ColumnElement[bool]) -> ScalarSelect[int]:
    on_hosts = select(func.coalesce(func.sum(_c.size_bytes), 0)).where(has_template, _is_named_and_ready())
    # The images of templates are counted with these.
    in_store = select(func.coalesce(func.sum(images.c.stored_bytes), 0)).where(
        has_image, images.c.kind != ImageKind.TEMPLATE, images.c.status == ImageStatus.READY
    )
    taken_b = on_hosts.scalar_subquery() + in_store.scalar_subquery()
    return select(cast(func.ceil(taken_b / float(MIB)), BigInteger)).scalar_subquery()


async def quota_status(tx: Transaction, team_id: TeamId, defaults: Limits) -> QuotaStatus:
    """Read the team's limits and usage of templates and their storage, under a lock until the transaction ends."""
    await lock_owner(tx, team_id)
    return await _quota_status(tx, team_id, defaults)


async def _quota_status(tx: Transaction, team_id: TeamId, defaults: Limits) -> QuotaStatus:
    whose = literal(team_id.value, Uuid)
    together = owned_together(whose)
    most = most_of(together).subquery("most")
    found = await tx.execute(
        select(
            snapshot_mb(whose).label("taken"),
            snapshot_mb_of(together).label("owner_taken"),
            template_count(whose).label("has_templates"),
            template_count_of(together).label("owner_templates"),
            most,
            *LIMIT_COLUMNS,
        ).select_from(most.outerjoin(team_limits, team_limits.c.team_id == team_id.value))
    )
    row = found.one()
    of_owner = Usage(templates=row.owner_templates, snapshot_mb=row.owner_taken)
    owner = QuotaStatus(owner_limits_of(row, defaults), of_owner)
    usage = Usage(templates=row.has_templates, snapshot_mb=row.taken)
    return QuotaStatus(limits_of(row).over(defaults), usage, owner)


async def own_layers_b(
    tx: Transaction, team_id: TeamId | None, template_id: UUID, layers: Mapping[str, int]
) -> int:
    """Return the bytes of those frozen layers that no other template of the team or the platform has."""
    name = func.jsonb_object_keys(_c.layers).label("name")
    is_own = _c.team_id == team_id.value if team_id is not None else false()
    found = await tx.execute(
        select(name).where(or_(is_own, _c.team_id.is_(None)), _is_named_and_ready(), _c.id != template_id)
    )
    others = set(found.scalars())
    return sum(size_b for layer, size_b in layers.items() if layer not in others)


async def require_any_space(
    tx: Transaction, team_id: TeamId, defaults: Limits, *, new_templates: int = 0
) -> None:
    """Check that the team has room for anything, and may have so many more templates.

    How much something takes is known only when it is there.

    Raises:
        QuotaExceeded: it has no room, or as many templates as it may.
    """
    wanted = Usage(templates=new_templates, snapshot_mb=1)
    (await quota_status(tx, team_id, defaults)).require_within_quota(wanted)


async def snapshot_mb_left(tx: Transaction, team_id: TeamId, defaults: Limits) -> int | None:
    """Return how much template storage the team has left now, of its own limit and its owner's; None: neither is limited."""
    status = await _quota_status(tx, team_id, defaults)
    left = [
        max(0, each.limits.snapshot_mb - each.usage.snapshot_mb)
        for each in (status, status.owner)
        if each is not None and each.limits.snapshot_mb is not None
    ]
    return min(left, default=None)


async def require_space(
    tx: Transaction, team_id: TeamId, size_b: int, defaults: Limits, *, new_templates: int = 0
) -> None:
    """Check that the team had room for what was inserted in this transaction: so many templates, or saved states, of this size.

    Raises:
        QuotaExceeded: that is more than the team had left.
    """
    added = Usage(templates=new_templates, snapshot_mb=-(-size_b // MIB))
    status = await quota_status(tx, team_id, defaults)
    _without(status, added).require_within_quota(added)


def _without(status: QuotaStatus, added: Usage) -> QuotaStatus:
    before = replace(
        status.usage,
        templates=status.usage.templates - added.templates,
        snapshot_mb=status.usage.snapshot_mb - added.snapshot_mb,
    )
    owner = None if status.owner is None else _without(status.owner, added)
    return QuotaStatus(status.limits, before, owner)


def _is_for(team_id: TeamId) -> ColumnElement[bool]:
    """SQL condition: the team's sandboxes may run on the host."""
    return and_(
        hosts.c.deleted_at.is_(None), or_(hosts.c.team_id.is_(None), hosts.c.team_id == team_id.value)
    )


async def host_built(database: Database, team_id: TeamId) -> list[HostBuiltTemplate]:
    """Return the templates that regular hosts and the team's own report and that have no row, by name."""
    name = func.unnest(hosts.c.templates).label("name")
    reported = select(name, hosts.c.created_at).where(_is_for(team_id)).subquery()
    has_row = exists().where(_c.team_id.is_(None), _c.name == reported.c.name, _is_named_and_ready())
    found = await database.execute(
        select(reported.c.name, func.min(reported.c.created_at).label("created_at"))
        .where(~has_row)
        .group_by(reported.c.name)
        .order_by(reported.c.name),
        repeatable=True,
    )
    return [HostBuiltTemplate(row.name, row.created_at) for row in found]


async def built_content(tx: Transaction, team_id: TeamId, name: str) -> str:
    """Return what identifies the content of a template that hosts build themselves; empty: not known.

    If the hosts for the team's sandboxes have different ones, it is the one that most of them have.
    """
    content = hosts.c.template_contents[name].astext
    found = await tx.execute(
        select(content)
        .where(_is_for(team_id), hosts.c.status == HostStatus.ONLINE, content.is_not(None))
        .group_by(content)
        .order_by(func.count().desc(), content)
        .limit(1)
    )
    return found.scalar_one_or_none() or ""


async def lock_names(tx: Transaction) -> None:
    """Let nobody else claim a template's name or change tags until this transaction ends."""
    await tx.execute(select(func.pg_advisory_xact_lock(_NAMES_LOCK)))


async def is_reserved(tx: Transaction, team_id: TeamId, name: str) -> bool:
    """Whether the platform has a template of this name, or a host for this team's sandboxes reports one."""
    row_there = exists().where(_c.team_id.is_(None), _c.name == name, _is_named_and_ready())
    reported = exists().where(_is_for(team_id), literal(name) == any_(hosts.c.templates))
    return (await tx.execute(select(or_(row_there, reported)))).scalar_one()


async def statuses(tx: Transaction, team_id: TeamId, name: str) -> set[TemplateStatus]:
    """Return the statuses of the team's templates of this name that are not being removed."""
    found = await tx.execute(
        select(_c.status).where(
            _c.team_id == team_id.value, _c.name == name, _c.status != TemplateStatus.REMOVING
        )
    )
    return {TemplateStatus(row.status) for row in found}


async def was_built(tx: Transaction, team_id: TeamId, name: str) -> bool:
    """Return whether a version of the team's template of this name was built, and is not being removed."""
    found = await tx.execute(
        select(_c.id)
        .where(
            _c.team_id == team_id.value,
            _c.name == name,
            or_(_c.type == TemplateType.BASE, _c.build_id.is_not(None)),
            _c.status != TemplateStatus.REMOVING,
        )
        .limit(1)
    )
    return found.one_or_none() is not None


@dataclass(frozen=True, slots=True)
class NewBase:
    """A template of type `base` that is to be inserted.

    `built_at`: when the oldest of its content was made; None: now.
    """

    template_id: UUID
    team_id: TeamId | None
    name: str
    image_id: ImageId
    vcpus: int
    memory_mb: int
    disk_size_mb: int
    size_bytes: int
    defaults: Defaults
    labels: dict[str, str]
    build_id: BuildId | None
    build_key: str | None
    built_at: datetime | None = None


async def insert_base(
    tx: Transaction, new: NewBase, *, tags: Sequence[str], by: Actor, defaults: Limits
) -> list[UUID]:
    """Insert a ready template with its tags; returns the snapshots that lost their last tag and are to be dropped.

    Raises:
        QuotaExceeded: it takes more than the team has left.
    """
    await lock_names(tx)
    former = 0 if new.team_id is None else await version_count(tx, new.team_id, new.name)
    await tx.execute(
        insert(templates).values(
            id=new.template_id,
            team_id=None if new.team_id is None else new.team_id.value,
            name=new.name,
            type=TemplateType.BASE,
            image=str(new.image_id),
            image_id=new.image_id.value,
            vcpus=new.vcpus,
            memory_mb=new.memory_mb,
            disk_size_mb=new.disk_size_mb,
            size_bytes=new.size_bytes,
            default_user=new.defaults.user,
            default_env=dict(new.defaults.env),
            working_dir=new.defaults.working_dir,
            labels=new.labels,
            build_id=None if new.build_id is None else new.build_id.value,
            build_key=new.build_key,
            built_at=new.built_at or func.now(),
            created_by=actor_json(by),
            status=TemplateStatus.READY,
        )
    )
    dropped = await set_tags(tx, new.team_id, new.name, tags, new.template_id)
    if new.team_id is not None:
        grown = await version_count(tx, new.team_id, new.name) - former
        await require_space(tx, new.team_id, new.size_bytes, defaults, new_templates=max(0, grown))
    action = AuditAction(Resource.TEMPLATE, "create", facts={"type": TemplateType.BASE.value})
    await record(tx, new.team_id or PLATFORM_TEAM, by, action, new.name)
    return dropped


async def set_tags(
    tx: Transaction, team_id: TeamId | None, name: str, tags: Sequence[str], template_id: UUID
) -> list[UUID]:
    """Let these tags of a name refer to a template, under `lock_names`; retires versions that no tag refers to any more.

    Returns the snapshots among those, which are to be dropped on their hosts.
    """
    await tx.execute(
        delete(template_tags).where(is_owned_by(_t.team_id, team_id), _t.name == name, _t.tag.in_(tags))
    )
    owner = None if team_id is None else team_id.value
    await tx.execute(
        insert(template_tags).values(
            [{"template_id": template_id, "team_id": owner, "name": name, "tag": tag} for tag in tags]
        )
    )
    return await retire_untagged(tx, team_id, name)


async def record_tags(
    tx: Transaction, team_id: TeamId | None, name: str, tags: Sequence[str], template_id: UUID, *, by: Actor
) -> None:
    """Record in the audit log that these tags refer to this version now."""
    for tag in tags:
        action = AuditAction(Resource.TEMPLATE, "tag", facts={"tag": tag, "id": str(template_id)})
        await record(tx, team_id or PLATFORM_TEAM, by, action, name)


async def remove_tags(tx: Transaction, team_id: TeamId | None, name: str, tags: Sequence[str]) -> list[UUID]:
    """Remove these tags of a name, under `lock_names`. Returns as `set_tags`."""
    await tx.execute(
        delete(template_tags).where(is_owned_by(_t.team_id, team_id), _t.name == name, _t.tag.in_(tags))
    )
    return await retire_untagged(tx, team_id, name)


async def remove_all_tags(tx: Transaction, team_id: TeamId | None, name: str) -> list[UUID] | None:
    """Remove all versions of a name, under `lock_names`; None: there is none. Else as `set_tags`."""
    await tx.execute(delete(template_tags).where(is_owned_by(_t.team_id, team_id), _t.name == name))
    found = await tx.execute(select(_c.id).where(is_ready(team_id), _c.name == name).limit(1))
    return None if found.first() is None else await retire_untagged(tx, team_id, name)


async def retire_untagged(tx: Transaction, team_id: TeamId | None, name: str) -> list[UUID]:
    """Retire the ready versions of a name that no tag refers to.

    A base's row is deleted at once, and its image retired unless another template has it; snapshots are marked for
    removal and returned.
    """
    untagged = and_(
        is_ready(team_id), _c.name == name, ~exists().where(_t.template_id == _c.id).correlate(templates)
    )
    bases = await tx.execute(
        delete(templates).where(untagged, _c.type == TemplateType.BASE).returning(_c.image_id)
    )
    await retire_unused_images(tx, [row.image_id for row in bases if row.image_id is not None])
    marked = await tx.execute(
        update(templates)
        .where(untagged, _c.type == TemplateType.SNAPSHOT)
        .values(status=move(TemplateStatus.READY, TemplateStatus.REMOVING))
        .returning(_c.id)
    )
    retired = [row.id for row in marked]
    await count_layers_again(tx, retired)
    return retired


async def count_layers_again(tx: Transaction, retired: Sequence[UUID]) -> None:
    """Count layers of snapshots that were retired in this transaction for the oldest remaining one of the team that has them.

    Each layer is counted once, for the oldest snapshot that has it; that one's removal frees it only if no other has it.
    """
    if not retired:
        return
    gone = (await tx.execute(select(*_LAYER_COLUMNS).where(_c.id.in_(retired), _c.layers != {}))).all()
    for team_id in {row.team_id for row in gone}:
        remaining = await tx.execute(
            select(*_LAYER_COLUMNS).where(_c.team_id == team_id, _is_named_and_ready(), _c.layers != {})
        )
        here = [row for row in gone if row.team_id == team_id]
        by_age = sorted([*here, *remaining], key=lambda row: (row.created_at, row.id))
        for template_id, size_b in _inherited(by_age, set(retired)).items():
            await tx.execute(
                update(templates).where(_c.id == template_id).values(size_bytes=_c.size_bytes + size_b)
            )


_LAYER_COLUMNS: Final = (_c.id, _c.team_id, _c.layers, _c.created_at)


def _inherited(by_age: Sequence[Row[*tuple[Any, ...]]], retired: Collection[UUID]) -> dict[UUID, int]:
    """Return how many bytes of layers that a retired snapshot counted each remaining one counts now; the oldest snapshots come first."""
    inherited: dict[UUID, int] = {}
    counted: set[str] = set()
    freed: dict[str, int] = {}
    for row in by_age:
        for layer, size_b in row.layers.items():
            if row.id in retired:
                if layer not in counted:
                    freed.setdefault(layer, size_b)
            elif layer in freed:
                inherited[row.id] = inherited.get(row.id, 0) + freed.pop(layer)
                counted.add(layer)
            else:
                counted.add(layer)
    return inherited


async def remove_all_bases(tx: Transaction, team_id: TeamId) -> None:
    """Remove all templates of type `base` of a team, as the team is deleted, and retire all its images."""
    await tx.execute(delete(templates).where(_c.team_id == team_id.value, _c.type == TemplateType.BASE))
    await retire_images_of_team(tx, team_id)


async def images_in_use(database: Database, ids: Collection[ImageId]) -> set[ImageId]:
    """Return those of these images that templates are made of which are not being removed."""
    by_name = {str(image_id): image_id for image_id in ids}
    found = await database.execute(
        select(_c.image).where(_c.image.in_(list(by_name)), _c.status != TemplateStatus.REMOVING).distinct(),
        repeatable=True,
    )
    return {by_name[row.image] for row in found}


async def retire_unused_images(tx: Transaction, image_ids: Sequence[UUID]) -> None:
    """Mark those of these images for removal that no template has; sandboxes may use their files still."""
    if image_ids:
        # Snapshots of their sandboxes need their files only, which stay while there are any.
        used = await tx.execute(
            select(_c.image_id).where(
                _c.image_id.in_(image_ids),
                _c.type == TemplateType.BASE,
                _c.status != TemplateStatus.REMOVING,
            )
        )
        unused = set(image_ids) - {row.image_id for row in used}
        await retire_images(tx, [ImageId(image_id) for image_id in unused])


DELETED: Final = AuditAction(Resource.SNAPSHOT, "delete", Status.WARNING)
