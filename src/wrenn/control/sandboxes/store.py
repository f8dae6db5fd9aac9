"""Queries on sandboxes. Writes are in `placement_store`, `desired_state_store`, `work_store` and `comparison_store`.

A state is written only where the row still has the version on which the decision was made, or under the row's lock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Row,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    null,
    or_,
    select,
)

from wrenn.base.ids import BuildId, HostId, ImageId, SandboxId, TeamId
from wrenn.control.auth import CALLERS, Caller, CallerQuery, Credential, arguments_of, caller_of
from wrenn.control.db import Database, RowQuery, span_s
from wrenn.control.hosts import HostEndpoint, hosts
from wrenn.control.sandboxes.records import CommandDefaults, Ingress, NetworkPolicy, Sandbox
from wrenn.control.sandboxes.selection import SandboxFilter, Sort, SortKey
from wrenn.control.sandboxes.state import ENDED, Desired, State
from wrenn.control.sandboxes.tables import sandboxes
from wrenn.protocol.vm_platform import VmPlatform

_COLUMNS: Final = [
    sandboxes.c[name]
    for name in (
        "id", "team_id", "host_id", "status", "desired", "failure", "reason", "version", "generation", "template", "image", "vcpus",
        "memory_mb", "timeout_sec", "expires_at", "on_expiry", "lift_on_pause", "resume_lifetime_sec", "keep_memory_on_pause", "auto_resume", "public_ports",
        "all_ports_public", "request_host",
        "network", "network_revision", "name", "labels", "created_by", "disk_size_mb", "default_user", "working_dir", "build_id", "idle_ms", "host_ip", "metadata",
        "created_at", "started_at", "last_active_at", "last_updated", "platform", "move_host_id", "host_tags", "stored_at",
        "paused_at",
    )
]  # fmt: skip


_LIVE: Final[ColumnElement[bool]] = literal_column(
    f"sandboxes.status NOT IN ({', '.join(repr(str(state)) for state in sorted(ENDED, reverse=True))})",
    Boolean,
)


def is_live() -> ColumnElement[bool]:
    """SQL condition: the sandbox has not ended.

    As in the predicates of the indexes, and not with parameters: PostgreSQL would not use these indexes in a plan for any
    parameters, and would plan each statement anew.
    """
    return _LIVE


async def images_in_use(database: Database, ids: Collection[ImageId]) -> set[ImageId]:
    """Return those of these images that sandboxes are made of which have not ended."""
    by_name = {str(image_id): image_id for image_id in ids}
    found = await database.execute(
        select(sandboxes.c.image).where(sandboxes.c.image.in_(list(by_name)), is_live()).distinct(),
        repeatable=True,
    )
    return {by_name[row.image] for row in found}


async def of_builds(database: Database) -> list[tuple[SandboxId, BuildId]]:
    """Return the sandboxes of builds that have not ended and are not being removed."""
    found = await database.execute(
        select(sandboxes.c.id, sandboxes.c.build_id).where(
            sandboxes.c.build_id.is_not(None), is_live(), sandboxes.c.desired != Desired.STOPPED
        ),
        repeatable=True,
    )
    return [(SandboxId(row.id), BuildId(row.build_id)) for row in found]


NOT_MOVING: Final[dict[str, Any]] = {"move_host_id": None, "move_resumes": False}
"""The columns of a sandbox that is not being moved."""


def takes_memory() -> ColumnElement[bool]:
    """SQL condition on a live sandbox: it takes memory of its host, because it is not paused or is being resumed.

    One that is paused for a move keeps its share, as it is resumed after that, on either host, without being admitted again.
    """
    return or_(
        sandboxes.c.status != State.PAUSED,
        sandboxes.c.desired == Desired.RUNNING,
        sandboxes.c.move_resumes,
    )


def sandbox_of(row: Row[Any]) -> Sandbox:
    """Convert a row of `select_sandboxes` to a value."""
    return Sandbox(
        sandbox_id=SandboxId(row.id),
        team_id=TeamId(row.team_id),
        host_id=HostId(row.host_id),
        status=State(row.status),
        desired=Desired(row.desired),
        failure=row.failure,
        reason=row.reason,
        version=row.version,
        generation=row.generation,
        template=row.template,
        image=row.image or row.template,
        vcpus=row.vcpus,
        memory_mb=row.memory_mb,
        timeout_sec=row.timeout_sec,
        expires_at=row.expires_at,
        on_expiry=row.on_expiry,
        lift_on_pause=row.lift_on_pause,
        resume_lifetime_sec=row.resume_lifetime_sec,
        keep_memory_on_pause=row.keep_memory_on_pause,
        auto_resume=row.auto_resume,
        ingress=Ingress(tuple(row.public_ports), row.all_ports_public, row.request_host),
        network=NetworkPolicy.from_json(row.network),
        network_revision=row.network_revision,
        name=row.name,
        labels=row.labels,
        created_by=row.created_by,
        disk_size_mb=row.disk_size_mb,
        command_defaults=CommandDefaults(row.default_user, row.working_dir),
        build_id=BuildId(row.build_id) if row.build_id else None,
        idle_ms=row.idle_ms,
        host_ip=row.host_ip,
        # SQLAlchemy's rows call their own columns `_mapping`; `metadata` is free.
        metadata=row.metadata,
        created_at=row.created_at,
        started_at=row.started_at,
        last_active_at=row.last_active_at,
        last_updated=row.last_updated,
        platform=VmPlatform.from_json(row.platform),
        host_tags=tuple(row.host_tags),
        move_host_id=None if row.move_host_id is None else HostId(row.move_host_id),
        stored_at=row.stored_at,
        paused_at=row.paused_at,
    )


def select_sandboxes() -> Select[Any]:
    """Select the columns that `sandbox_of` reads."""
    return select(*_COLUMNS)


def due_when_running(
    last_active_at: ColumnElement[Any] = sandboxes.c.last_active_at,
    timeout_sec: ColumnElement[Any] = sandboxes.c.timeout_sec,
    expires_at: ColumnElement[Any] = sandboxes.c.expires_at,
) -> ColumnElement[Any]:
    """SQL expression for `due_at` of a running sandbox: the end of its idle time or of its lifetime, whichever is earlier."""
    idle = last_active_at + span_s(timeout_sec)
    return func.least(case((timeout_sec > 0, idle), else_=null()), expires_at)


def due_when_paused(
    on_expiry: ColumnElement[Any] = sandboxes.c.on_expiry,
    expires_at: ColumnElement[Any] = sandboxes.c.expires_at,
) -> ColumnElement[Any]:
    """SQL expression for `due_at` of a paused sandbox: the end of its lifetime if it is to be removed then."""
    return case((on_expiry == "kill", expires_at), else_=null())


def _location(caller: CallerQuery) -> RowQuery:
    return RowQuery(
        select(*caller.columns, *_COLUMNS, hosts.c.address, hosts.c.cert_epoch)
        .select_from(
            caller.source.outerjoin(
                sandboxes,
                and_(sandboxes.c.id == bindparam("sandbox_id"), sandboxes.c.team_id == caller.team_id),
            ).outerjoin(hosts, hosts.c.id == sandboxes.c.host_id)
        )
        .where(caller.is_valid)
    )


_LOCATIONS: Final = {kind: _location(caller) for kind, caller in CALLERS.items()}


async def locate(
    database: Database, credential: Credential, sandbox_id: SandboxId
) -> tuple[Caller, tuple[Sandbox, HostEndpoint] | None]:
    """Return the caller, and the sandbox with its host if it is of the caller's team; the one query of most requests.

    Raises:
        Unauthorized, Forbidden: as `auth.caller_of`.
    """
    row = await database.find(
        _LOCATIONS[type(credential)], sandbox_id=sandbox_id.value, **arguments_of(credential)
    )
    caller = caller_of(credential, row)
    return caller, None if row.id is None else _located(row)


def _located(row: Any) -> tuple[Sandbox, HostEndpoint]:
    sandbox = sandbox_of(row)
    return sandbox, HostEndpoint(sandbox.host_id, row.address, row.cert_epoch)


_PLACE: Final = RowQuery(
    select(*_COLUMNS, hosts.c.address, hosts.c.cert_epoch)
    .select_from(sandboxes.join(hosts, hosts.c.id == sandboxes.c.host_id))
    .where(sandboxes.c.id == bindparam("sandbox_id"))
)


async def find_location(database: Database, sandbox_id: SandboxId) -> tuple[Sandbox, HostEndpoint] | None:
    """Return a sandbox of any team and its host. The caller of this function checks access."""
    row = await database.find(_PLACE, sandbox_id=sandbox_id.value)
    return None if row is None else _located(row)


async def ingress_of(database: Database, ids: Collection[SandboxId]) -> dict[SandboxId, Ingress]:
    """Return how the ports of these sandboxes are visited now, of any team; those that have ended are left out."""
    c = sandboxes.c
    found = await database.execute(
        select(c.id, c.public_ports, c.all_ports_public, c.request_host).where(
            c.id.in_([sandbox_id.value for sandbox_id in ids]), is_live()
        ),
        repeatable=True,
    )
    return {
        SandboxId(row.id): Ingress(tuple(row.public_ports), row.all_ports_public, row.request_host)
        for row in found
    }


_ONE: Final = RowQuery(select_sandboxes().where(sandboxes.c.id == bindparam("sandbox_id")))


async def load(database: Database, sandbox_id: SandboxId) -> Sandbox | None:
    """Return one sandbox; None: there is no such sandbox."""
    row = await database.find(_ONE, sandbox_id=sandbox_id.value)
    return None if row is None else sandbox_of(row)


async def live_of_team(database: Database, team_id: TeamId, selected: SandboxFilter) -> list[Sandbox]:
    """Return the team's live sandboxes that match the filter, in its order."""
    c = sandboxes.c
    conditions = [c.team_id == team_id.value, is_live()]
    if selected.text:
        conditions.append(_has_text(selected))
    if selected.template is not None:
        conditions.append(c.template == selected.template)
    if selected.created_by is not None:
        conditions.append(c.created_by["id"].astext == selected.created_by)
    if selected.name is not None:
        conditions.append(c.name.like(selected.name_pattern, escape="\\"))
    if selected.labels:
        conditions.append(c.labels.contains(dict(selected.labels)))
    if selected.states:
        conditions.append(c.status.in_(sorted(selected.states)))
    if selected.started_after is not None:
        conditions.append(func.coalesce(c.started_at, c.created_at) >= selected.started_after)
    column = _sort_column(selected.sort)
    if selected.after is not None:
        value, sandbox_id = selected.after
        is_later = column < value if selected.sort.is_descending else column > value
        # The first condition is where the index begins; without it a page would read all pages before it.
        conditions.append(column <= value if selected.sort.is_descending else column >= value)
        conditions.append(or_(is_later, c.id > sandbox_id.value))
    ordered = column.desc() if selected.sort.is_descending else column
    statement = select_sandboxes().where(*conditions).order_by(ordered, c.id)
    found = await database.execute(
        statement if selected.limit is None else statement.limit(selected.limit), repeatable=True
    )
    return [sandbox_of(row) for row in found]


def _has_text(selected: SandboxFilter) -> ColumnElement[bool]:
    c, pattern = sandboxes.c, selected.text_pattern
    label = func.jsonb_each_text(c.labels).table_valued("key", "value", name="label")
    in_label = or_(*(part.ilike(pattern, escape="\\") for part in (label.c.key, label.c.value)))
    found = [
        c.name.ilike(pattern, escape="\\"),
        c.template.ilike(pattern, escape="\\"),
        exists(select(1).select_from(label).where(in_label)),
    ]
    if (ids := SandboxId.with_prefix(selected.text)) is not None:
        found.append(c.id.between(ids[0].value, ids[1].value))
    return or_(*found)


def _sort_column(sort: Sort) -> ColumnElement[Any]:
    if sort.key is SortKey.LAST_ACTIVE_AT:
        return func.coalesce(sandboxes.c.last_active_at, sandboxes.c.created_at)
    return sandboxes.c[sort.key.value]


async def running_of_team(
    database: Database, team_id: TeamId, ids: Sequence[SandboxId] | None, *, most: int
) -> list[tuple[SandboxId, HostEndpoint]]:
    """Return the running sandboxes of the team and their hosts, newest first and at most so many; with `ids` only those."""
    c = sandboxes.c
    conditions = [c.team_id == team_id.value, c.status == State.RUNNING, is_live()]
    if ids is not None:
        conditions.append(c.id.in_([sandbox_id.value for sandbox_id in ids]))
    found = await database.execute(
        select(c.id, c.host_id, hosts.c.address, hosts.c.cert_epoch)
        .select_from(sandboxes.join(hosts, hosts.c.id == c.host_id))
        .where(*conditions)
        .order_by(c.created_at.desc(), c.id)
        .limit(most),
        repeatable=True,
    )
    return [
        (SandboxId(row.id), HostEndpoint(HostId(row.host_id), row.address, row.cert_epoch)) for row in found
    ]


async def newest_running(database: Database, *, most: int) -> list[SandboxId]:
    """Return the running sandboxes of all teams, newest first and at most so many. The caller of this function shows them to nobody."""
    c = sandboxes.c
    found = await database.execute(
        select(c.id).where(c.status == State.RUNNING, is_live()).order_by(c.created_at.desc()).limit(most),
        repeatable=True,
    )
    return [SandboxId(row.id) for row in found]


async def count_live(database: Database, team_ids: Sequence[TeamId]) -> dict[TeamId, int]:
    """Count the live sandboxes of these teams; teams without any are left out."""
    found = await database.execute(
        select(sandboxes.c.team_id, func.count().label("live"))
        .where(sandboxes.c.team_id.in_([team_id.value for team_id in team_ids]), is_live())
        .group_by(sandboxes.c.team_id),
        repeatable=True,
    )
    return {TeamId(row.team_id): row.live for row in found}


async def count_by_status(database: Database) -> dict[State, int]:
    """Count the live sandboxes of all teams by status; a status without any is left out."""
    found = await database.execute(
        select(sandboxes.c.status, func.count().label("live")).where(is_live()).group_by(sandboxes.c.status),
        repeatable=True,
    )
    return {State(row.status): row.live for row in found}


async def live(database: Database) -> list[Sandbox]:
    """Return the live sandboxes of all teams."""
    return [
        sandbox_of(row)
        for row in await database.execute(select_sandboxes().where(is_live()), repeatable=True)
    ]
