"""Statements on the layer cache. Time is the database's.

A layer is a hidden snapshot (`wrenn.control.snapshots`) with a row that says what led to it. Whoever marks the snapshot for removal
deletes that row in the same transaction, or it is deleted with the snapshot's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert

from wrenn.base.ids import HostId, SandboxId, SnapshotId, TeamId
from wrenn.control.builds.keys import Shape
from wrenn.control.builds.records import Build
from wrenn.control.builds.store import is_held_by
from wrenn.control.builds.tables import build_bases, build_layers, builds
from wrenn.control.db import Database, Transaction, span_s
from wrenn.control.hosts import hosts
from wrenn.control.templates import TemplateStatus, templates
from wrenn.protocol.vm_platform import VmPlatform

_b = build_bases.c
_c = build_layers.c
_t = templates.c

_LAYERS_OF_TEAM: Final = 100
LAYER_AGE_S: Final = 7 * 86_400.0
"""Older layers are removed: what steps fetch from elsewhere changes, and so do templates that hosts build themselves."""
_BASES_OF_TEAM: Final = 100
"""Bases of a team whose variables are known."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The kept state of a build's sandbox after some steps.

    Attributes:
        image: as hosts name what the sandbox was started from.
        depth: of how many layers it is one after the other, with itself.
        created_at: when the oldest of these was made.
    """

    snapshot_id: SnapshotId
    key: str
    host_id: HostId
    image: str
    vm_platform: VmPlatform
    depth: int
    created_at: datetime


def _has_shape(shape: Shape) -> ColumnElement[bool]:
    return and_(
        _c.vcpus == shape.vcpus, _c.memory_mb == shape.memory_mb, _c.disk_size_mb == shape.disk_size_mb
    )


async def find(database: Database, team_id: TeamId, keys: Sequence[str], shape: Shape) -> Mapping[str, Layer]:
    """Return the team's layers with these keys whose hosts can be reached, by key."""
    found = await database.execute(
        select(_c.snapshot_id, _c.key, _c.depth, _c.created_at, _t.host_id, _t.image, _t.platform)
        .join_from(build_layers, templates, _t.id == _c.snapshot_id)
        .join(hosts, hosts.c.id == _t.host_id)
        .where(_c.key.in_(keys), _is_usable(team_id, shape)),
        repeatable=True,
    )
    return {
        row.key: Layer(
            SnapshotId(row.snapshot_id),
            row.key,
            HostId(row.host_id),
            row.image,
            VmPlatform.from_json(row.platform),
            row.depth,
            row.created_at,
        )
        for row in found
    }


async def claim(
    database: Database, build: Build, sandbox_id: SandboxId, layer: Layer, *, owner: str
) -> bool | None:
    """Record that the build's sandbox is about to be made from a layer, which is not removed until the build has ended.

    False: the layer is gone. None: the build's lease was lost.
    """

    async def write(tx: Transaction) -> bool | None:
        # `remove_excess` locks the same rows before it looks which ones builds use.
        used = await tx.execute(
            update(build_layers)
            .where(_c.snapshot_id == layer.snapshot_id.value)
            .values(last_used_at=func.now())
            .returning(_c.snapshot_id)
        )
        is_there = used.one_or_none() is not None
        if not is_there:
            return False
        written = await tx.execute(
            update(builds)
            .where(is_held_by(build, owner))
            .values(sandbox_id=sandbox_id.value, layer_id=layer.snapshot_id.value)
            .returning(builds.c.id)
        )
        return True if written.one_or_none() is not None else None

    return await database.transaction(write)


async def exists_with(database: Database, team_id: TeamId, key: str, shape: Shape) -> bool:
    """Whether the team has a layer with this key, perhaps on a host that cannot be reached now."""
    there = exists().where(
        _c.snapshot_id == _t.id,
        _t.host_id == hosts.c.id,
        _c.key == key,
        _is_usable(team_id, shape),
    )
    return (await database.execute(select(there), repeatable=True)).scalar_one()


async def insert_layer(
    tx: Transaction,
    snapshot_id: SnapshotId,
    team_id: TeamId,
    key: str,
    shape: Shape,
    *,
    origin: Layer | None,
    made_at: datetime | None,
) -> None:
    """Insert a layer of a hidden snapshot that is ready. It replaces an earlier one with the same key, or is removed if a build uses that.

    `origin`: the layer that its sandbox was made from; None: the base. `made_at`: when the oldest layer was made whose content
    it has too; None: all of it is new.
    """
    same = and_(_c.team_id == team_id.value, _c.key == key, _has_shape(shape))
    await _remove(tx, and_(same, ~_is_used()))
    await tx.execute(
        insert(build_layers)
        .values(
            snapshot_id=snapshot_id.value,
            team_id=team_id.value,
            key=key,
            vcpus=shape.vcpus,
            memory_mb=shape.memory_mb,
            disk_size_mb=shape.disk_size_mb,
            depth=1 if origin is None else origin.depth + 1,
            created_at=func.now() if made_at is None else made_at,
        )
        .on_conflict_do_nothing(index_elements=[_c.team_id, _c.key, _c.vcpus, _c.memory_mb, _c.disk_size_mb])
    )
    has_row = exists().where(_c.snapshot_id == snapshot_id.value)
    await tx.execute(
        update(templates).where(_t.id == snapshot_id.value, ~has_row).values(status=TemplateStatus.REMOVING)
    )


async def remove(tx: Transaction, layer: Layer) -> None:
    """Remove a layer that cannot be used."""
    await _remove(tx, _c.snapshot_id == layer.snapshot_id.value)


async def remove_excess(tx: Transaction, team_id: TeamId, *, most_b: int) -> None:
    """Remove a team's layers beyond its limits, but for those that a running build was made from.

    The most recently used ones stay. One that does not fit beside them goes, and does not make those go that do: one layer that is larger
    than the limit removes no other.
    """
    is_own = _c.team_id == team_id.value
    # In the order in which others lock several.
    await tx.execute(select(_c.snapshot_id).where(is_own).order_by(_c.snapshot_id).with_for_update())
    found = await tx.execute(
        select(_c.snapshot_id, _t.size_bytes, _t.layers)
        .join_from(build_layers, templates, _t.id == _c.snapshot_id)
        .where(is_own)
        .order_by(_c.last_used_at.desc(), _c.snapshot_id)
    )
    excess: list[UUID] = []
    taken_b, counted = 0, set[str]()
    for place, row in enumerate(found, start=1):
        # A part of the disk that several have counts once, for the one that is removed last.
        new: dict[str, int] = {name: size_b for name, size_b in row.layers.items() if name not in counted}
        own_b = row.size_bytes + sum(new.values())
        if place > _LAYERS_OF_TEAM or taken_b + own_b > most_b:
            excess.append(row.snapshot_id)
            continue
        taken_b += own_b
        counted.update(new)
    if excess:
        await _remove(tx, and_(_c.snapshot_id.in_(excess), ~_is_used()))


def _is_usable(team_id: TeamId, shape: Shape) -> ColumnElement[bool]:
    """SQL condition on a layer with its snapshot and host: a build of the team may begin from it now."""
    return and_(
        _c.team_id == team_id.value,
        _has_shape(shape),
        ~_is_old(),
        _t.status == TemplateStatus.READY,
        hosts.c.is_reachable,
    )


def _is_used() -> ColumnElement[bool]:
    """SQL condition: the sandbox of a running build was made from the layer."""
    return exists().where(builds.c.layer_id == _c.snapshot_id, builds.c.completed_at.is_(None))


def _is_old() -> ColumnElement[bool]:
    return _c.created_at < func.now() - span_s(LAYER_AGE_S)


async def remove_old(database: Database) -> None:
    """Remove layers of all teams that are too old, but for those that a running build was made from."""

    async def write(tx: Transaction) -> None:
        await tx.execute(select(_c.snapshot_id).where(_is_old()).order_by(_c.snapshot_id).with_for_update())
        await _remove(tx, and_(_is_old(), ~_is_used()))

    await database.transaction(write)


async def _remove(tx: Transaction, which: ColumnElement[bool]) -> None:
    """Delete layers and mark their snapshots for removal, which a sweep carries out."""
    gone = await tx.execute(delete(build_layers).where(which).returning(_c.snapshot_id))
    ids = list(gone.scalars())
    if ids:
        await tx.execute(
            update(templates)
            .where(_t.id.in_(ids), _t.status == TemplateStatus.READY)
            .values(status=TemplateStatus.REMOVING)
        )


async def environment_of(database: Database, team_id: TeamId, base_key: str) -> dict[str, str] | None:
    """Return the variables of programs in sandboxes of a base; None: they are not known."""
    found = await database.execute(
        update(build_bases)
        .where(_b.team_id == team_id.value, _b.key == base_key)
        .values(last_used_at=func.now())
        .returning(_b.environment)
    )
    row = found.one_or_none()
    return None if row is None else dict(row.environment)


async def remember_environment(
    database: Database, team_id: TeamId, base_key: str, environment: Mapping[str, str]
) -> None:
    """Record the variables of programs in sandboxes of a base; the least recently used ones of the team are forgotten."""

    async def write(tx: Transaction) -> None:
        values: dict[str, Any] = {"environment": dict(environment), "last_used_at": func.now()}
        await tx.execute(
            insert(build_bases)
            .values(team_id=team_id.value, key=base_key, **values)
            .on_conflict_do_update(index_elements=[_b.team_id, _b.key], set_=values)
        )
        newest = (
            select(_b.key)
            .where(_b.team_id == team_id.value)
            .order_by(_b.last_used_at.desc(), _b.key)
            .limit(_BASES_OF_TEAM)
        )
        await tx.execute(delete(build_bases).where(_b.team_id == team_id.value, _b.key.not_in(newest)))

    await database.transaction(write)


async def forget_bases(tx: Transaction, team_id: TeamId) -> None:
    """Forget the bases of a team that is deleted. Its layers go with its snapshots."""
    await tx.execute(delete(build_bases).where(_b.team_id == team_id.value))
