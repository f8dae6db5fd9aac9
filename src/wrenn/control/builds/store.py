"""Statements on builds. Time is the database's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    Row,
    Text,
    and_,
    cast,
    delete,
    exists,
    func,
    insert,
    not_,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.dialects.postgresql import insert as insert_or_skip

from wrenn.base.ids import BuildId, SandboxId, TeamId
from wrenn.control.audit import Actor, AuditAction, Resource, Status, actor_json, record
from wrenn.control.builds.records import Build, BuildRequest, BuildStatus, LogEntry, LogKind
from wrenn.control.builds.tables import build_logs, builds
from wrenn.control.db import RELEASED, Database, Leases, Transaction, span_s
from wrenn.control.identity import users_teams, writer

QUEUE_LOCK: Final = 0x6275696C6473
"""Advisory lock of whoever takes builds from the queue: "builds"."""

_c = builds.c
_l = build_logs.c
LEASES: Final = Leases(builds)


def _build(row: Row[Any]) -> Build:
    return Build(
        build_id=BuildId(row.id),
        team_id=TeamId(row.team_id),
        name=row.name,
        tags=tuple(row.tags),
        request=BuildRequest.from_json(row.request),
        archive_key=row.archive_key,
        vcpus=row.vcpus,
        memory_mb=row.memory_mb,
        disk_size_mb=row.disk_size_mb,
        status=BuildStatus(row.status),
        is_cancel_requested=row.is_cancel_requested,
        current_step=row.current_step,
        total_steps=row.total_steps,
        error_code=row.error_code,
        error=row.error,
        attempts=row.attempts,
        sandbox_id=SandboxId(row.sandbox_id) if row.sandbox_id else None,
        template_id=row.template_id,
        created_by=row.created_by,
        created_at=row.created_at,
        started_at=row.started_at,
        completed_at=row.completed_at,
    )


async def insert_pending(
    tx: Transaction, build: BuildId, values: Mapping[str, Any], *, by: Actor
) -> Build | None:
    """Insert a new build, with its entry in the audit log; None: there is one with this id."""
    written = await tx.execute(
        insert_or_skip(builds)
        .values(id=build.value, created_by=actor_json(by) or null(), **values)
        .on_conflict_do_nothing(index_elements=[_c.id])
        .returning(*builds.c)
    )
    row = written.one_or_none()
    if row is None:
        return None
    made = _build(row)
    await record(
        tx, made.team_id, by, AuditAction(Resource.BUILD, "create", facts={"name": made.name}), str(build)
    )
    return made


async def count_unfinished(tx: Transaction, team_id: TeamId) -> int:
    """Count the team's builds that have not ended."""
    found = await tx.execute(
        select(func.count()).where(
            _c.team_id == team_id.value, _c.status.in_([BuildStatus.PENDING, BuildStatus.RUNNING])
        )
    )
    return found.scalar_one()


async def of_team(database: Database, team_id: TeamId, *, limit: int) -> list[Build]:
    """Return the team's builds, newest first, without what their recipes say."""
    # Without the texts of the recipes, which are large.
    texts = cast(array(["recipe", "dockerfile", "build_args"]), ARRAY(Text))
    request = _c.request.op("-", return_type=_c.request.type)(texts).label("request")
    columns = [request if column is _c.request else column for column in builds.c]
    found = await database.execute(
        select(*columns)
        .where(_c.team_id == team_id.value)
        .order_by(_c.created_at.desc(), _c.id)
        .limit(limit),
        repeatable=True,
    )
    return [_build(row) for row in found]


async def get(database: Database, team_id: TeamId, build_id: BuildId) -> Build | None:
    """Return one build of the team; None: there is none."""
    found = await database.execute(
        select(builds).where(_c.id == build_id.value, _c.team_id == team_id.value), repeatable=True
    )
    row = found.one_or_none()
    return None if row is None else _build(row)


async def is_running(database: Database, build_id: BuildId) -> bool:
    """Whether there is such a build, of any team, and it has not ended."""
    return bool(await running_among(database, [build_id]))


async def running_among(database: Database, ids: Collection[BuildId]) -> set[BuildId]:
    """Return those of these builds that have not ended."""
    found = await database.execute(
        select(_c.id).where(_c.id.in_([build.value for build in ids]), _c.completed_at.is_(None)),
        repeatable=True,
    )
    return {BuildId(row.id) for row in found}


async def is_anything_due(database: Database) -> bool:
    """Whether a build waits for a worker; one cheap statement without a lock."""
    waits = exists().where(_c.status.in_([BuildStatus.PENDING, BuildStatus.RUNNING]), LEASES.is_free())
    return (await database.execute(select(waits), repeatable=True)).scalar_one()


def _waiting(most_of_team: int, running_here: Collection[BuildId]) -> CTE:
    """SQL: builds that may be taken, each with its place among those of its team's owner, of which the running ones come first."""
    is_owner = and_(users_teams.c.team_id == _c.team_id, users_teams.c.role == "owner")
    unfinished = (
        select(
            _c.id,
            _c.team_id,
            _c.created_at,
            func.coalesce(users_teams.c.user_id, _c.team_id).label("owner_id"),
            and_(LEASES.is_free(), _c.id.not_in([build.value for build in running_here])).label("is_free"),
        )
        .select_from(builds.outerjoin(users_teams, is_owner))
        .where(_c.status.in_([BuildStatus.PENDING, BuildStatus.RUNNING]))
        .cte("unfinished")
    )

    def place(of: CTE, column: str) -> ColumnElement[int]:
        # The builds that run come before those that wait.
        order = (of.c.is_free, of.c.created_at, of.c.id)
        return func.row_number().over(partition_by=of.c[column], order_by=order)

    of_teams = select(unfinished, place(unfinished, "team_id").label("place_in_team")).cte("of_teams")
    allowed = (
        select(of_teams)
        .where(or_(not_(of_teams.c.is_free), of_teams.c.place_in_team <= most_of_team))
        .cte("allowed")
    )
    placed = select(allowed, place(allowed, "owner_id").label("place")).cte("placed")
    return select(placed).where(placed.c.is_free).cte("waiting")


async def take(
    database: Database,
    *,
    owner: str,
    lease_s: float,
    most: int,
    reserved: int,
    most_of_team: int,
    most_of_owner: int,
    running_here: Collection[BuildId],
) -> list[Build]:
    """Lease builds that nobody works on: at most `most`; not more of a team, or of all teams of one owner, at once than that.

    Owners with fewer running ones come first, then older builds; `reserved` of `most` are only for owners with none. `running_here`: those
    that this lease owner still runs, whatever the clock says of their leases.
    """

    async def lease(tx: Transaction) -> list[Build]:
        await tx.execute(select(func.pg_advisory_xact_lock(QUEUE_LOCK)))
        waiting = _waiting(most_of_team, running_here)
        due = (
            select(waiting.c.id, waiting.c.place)
            .where(waiting.c.place <= most_of_owner)
            .order_by(waiting.c.place, waiting.c.created_at, waiting.c.id)
            .limit(most)
        )
        found = (await tx.execute(due)).all()
        ids = [row.id for row in found[: most - reserved]]
        ids += [row.id for row in found[most - reserved :] if row.place == 1]
        if not ids:
            return []
        # Nobody is shown what a former attempt wrote.
        await tx.execute(delete(build_logs).where(_l.build_id.in_(ids)))
        taken = await tx.execute(
            update(builds)
            .where(_c.id.in_(ids))
            .values(
                status=BuildStatus.RUNNING,
                attempts=_c.attempts + 1,
                current_step=0,
                started_at=func.coalesce(_c.started_at, func.now()),
                **LEASES.grant(owner, lease_s),
            )
            .returning(*builds.c)
        )
        return [_build(row) for row in taken]

    return await database.transaction(lease)


async def release(database: Database, build: Build, *, owner: str) -> None:
    """Give the lease of this attempt back, so that another one begins at once."""
    await database.execute(update(builds).where(is_held_by(build, owner)).values(RELEASED))


async def cancel(database: Database, team_id: TeamId, build_id: BuildId, *, by: Actor) -> BuildStatus | None:
    """Ask for the end of a build; one that no worker has ends at once. Returns its status before; None: there is none."""

    async def change(tx: Transaction) -> BuildStatus | None:
        found = await tx.execute(
            select(_c.status, _c.is_cancel_requested)
            .where(_c.id == build_id.value, _c.team_id == team_id.value)
            .with_for_update()
        )
        row = found.one_or_none()
        if row is None:
            return None
        status = BuildStatus(row.status)
        if status in (BuildStatus.PENDING, BuildStatus.RUNNING) and not row.is_cancel_requested:
            is_pending = status is BuildStatus.PENDING
            await tx.execute(
                update(builds)
                .where(_c.id == build_id.value)
                .values(
                    is_cancel_requested=True,
                    status=BuildStatus.CANCELLED if is_pending else status,
                    completed_at=func.now() if is_pending else _c.completed_at,
                )
            )
            await record(
                tx, team_id, by, AuditAction(Resource.BUILD, "cancel", Status.WARNING), str(build_id)
            )
        return status

    return await database.transaction(change)


def is_held_by(build: Build, owner: str) -> ColumnElement[bool]:
    """SQL condition: this attempt still has its lease."""
    return and_(LEASES.is_held(build.build_id.value, owner), _c.attempts == build.attempts)


@dataclass(frozen=True, slots=True)
class Watched:
    """Whether a running build is to be cancelled, and whether who asked for it still has the access that it needs."""

    is_cancel_requested: bool
    is_allowed: bool


async def watch(database: Database, build: Build, *, owner: str) -> Watched | None:
    """Return whether the build may go on; None: this attempt has lost the lease."""
    is_allowed = true() if build.holder is None else writer(build.team_id, build.holder).exists()
    found = await database.execute(
        select(_c.is_cancel_requested, is_allowed.label("is_allowed")).where(is_held_by(build, owner)),
        repeatable=True,
    )
    row = found.one_or_none()
    return None if row is None else Watched(row.is_cancel_requested, row.is_allowed)


async def set_sandbox(database: Database, build: Build, sandbox_id: SandboxId, *, owner: str) -> bool:
    """Record the sandbox of the present attempt, before it is created; False: the lease was lost."""
    return await _update(database, build, owner, sandbox_id=sandbox_id.value, layer_id=None)


async def set_step(database: Database, build: Build, step: int, *, owner: str) -> bool:
    """Record which step runs; False: the lease was lost."""
    return await _update(database, build, owner, current_step=step)


async def _update(database: Database, build: Build, owner: str, **values: Any) -> bool:
    written = await database.execute(
        update(builds).where(is_held_by(build, owner)).values(**values).returning(_c.id)
    )
    return written.one_or_none() is not None


async def finish(
    tx: Transaction,
    build: Build,
    status: BuildStatus,
    *,
    owner: str,
    by: Actor,
    error_code: str = "",
    error: str = "",
    template_id: UUID | None = None,
) -> bool:
    """Record the end of a build and give its lease back.

    False: this attempt has lost its lease, or it would be a success and was asked to be cancelled before.
    """
    may_succeed = not_(_c.is_cancel_requested) if status is BuildStatus.SUCCESS else true()
    written = await tx.execute(
        update(builds)
        .where(is_held_by(build, owner), _c.status == BuildStatus.RUNNING, may_succeed)
        .values(
            status=status,
            error_code=error_code,
            error=error,
            template_id=template_id,
            completed_at=func.now(),
            **RELEASED,
        )
        .returning(_c.team_id, _c.name)
    )
    row = written.one_or_none()
    if row is None:
        return False
    severity = {BuildStatus.FAILED: Status.ERROR, BuildStatus.CANCELLED: Status.WARNING}
    action = AuditAction(
        Resource.BUILD,
        "finish",
        severity.get(status, Status.SUCCESS),
        facts={"name": row.name, "status": status.value},
    )
    await record(tx, TeamId(row.team_id), by, action, str(build.build_id))
    return True


async def cancel_all(tx: Transaction, team_id: TeamId) -> None:
    """Ask for the end of all builds of a team, as the team is deleted."""
    await tx.execute(
        update(builds)
        .where(_c.team_id == team_id.value, _c.status == BuildStatus.RUNNING)
        .values(is_cancel_requested=True)
    )
    await tx.execute(
        update(builds)
        .where(_c.team_id == team_id.value, _c.status == BuildStatus.PENDING)
        .values(status=BuildStatus.CANCELLED, is_cancel_requested=True, completed_at=func.now())
    )


async def archives_of_ended(database: Database, *, limit: int) -> list[tuple[BuildId, str]]:
    """Return some archives in the store that no build needs any more, others each time: one may be impossible to delete."""
    found = await database.execute(
        select(_c.id, _c.archive_key)
        .where(_c.archive_key.is_not(None), _c.completed_at.is_not(None))
        .order_by(func.random())
        .limit(limit),
        repeatable=True,
    )
    return [(BuildId(row.id), row.archive_key) for row in found]


async def with_archive_among(database: Database, ids: Collection[BuildId]) -> set[BuildId]:
    """Return those of these builds that have an archive in the store."""
    found = await database.execute(
        select(_c.id).where(_c.id.in_([build.value for build in ids]), _c.archive_key.is_not(None)),
        repeatable=True,
    )
    return {BuildId(row.id) for row in found}


async def forget_archive(database: Database, build_id: BuildId) -> None:
    """Record that the store does not have the build's archive any more."""
    await database.execute(update(builds).where(_c.id == build_id.value).values(archive_key=None))


async def delete_old(database: Database, *, older_s: float, most_of_team: int) -> None:
    """Delete ended builds with their logs: old ones, and of each team those beyond its newest."""
    place = func.row_number().over(partition_by=_c.team_id, order_by=(_c.created_at.desc(), _c.id))
    ended = select(_c.id, _c.completed_at, place.label("place")).where(
        _c.completed_at.is_not(None), _c.archive_key.is_(None)
    )
    those = ended.cte("ended")
    await database.execute(
        delete(builds).where(
            _c.id.in_(
                select(those.c.id).where(
                    or_(those.c.completed_at < func.now() - span_s(older_s), those.c.place > most_of_team)
                )
            )
        )
    )


async def append_log(
    database: Database,
    build_id: BuildId,
    attempt: int,
    entries: Sequence[tuple[int, LogKind, Mapping[str, Any]]],
) -> None:
    """Append entries (step, kind, data) to the log of an attempt; does nothing if a later one has begun."""
    rows = [
        {"build_id": build_id.value, "attempt": attempt, "step": step, "kind": kind.value, "data": dict(data)}
        for step, kind, data in entries
    ]

    async def write(tx: Transaction) -> None:
        is_current = select(_c.id).where(_c.id == build_id.value, _c.attempts == attempt)
        if (
            await tx.execute(is_current.with_for_update(read=True, key_share=True))
        ).one_or_none() is not None:
            await tx.execute(insert(build_logs), rows)

    if rows:
        await database.transaction(write)


async def log_page(database: Database, build_id: BuildId, *, offset: int, limit: int) -> list[LogEntry]:
    """Return entries of the last attempt after the first `offset` ones, oldest first."""
    found = await database.execute(
        select(build_logs)
        .join(builds, and_(_l.build_id == _c.id, _l.attempt == _c.attempts))
        .where(_l.build_id == build_id.value)
        .order_by(_l.id)
        .offset(offset)
        .limit(limit),
        repeatable=True,
    )
    return [_entry(row) for row in found]


def _entry(row: Row[Any]) -> LogEntry:
    return LogEntry(row.id, row.attempt, row.step, LogKind(row.kind), row.data, row.at)


async def read_log(
    database: Database, build_id: BuildId, *, after: int, limit: int
) -> tuple[list[LogEntry], BuildStatus]:
    """Return entries of the last attempt behind `after`, oldest first, and the build's status when they were read."""
    found = await database.execute(
        select(build_logs, _c.status.label("build_status"))
        .select_from(
            builds.outerjoin(build_logs, and_(_l.build_id == _c.id, _l.attempt == _c.attempts, _l.id > after))
        )
        .where(_c.id == build_id.value)
        .order_by(_l.id)
        .limit(limit),
        repeatable=True,
    )
    rows = found.all()
    entries = [_entry(row) for row in rows if row.id is not None]
    return entries, BuildStatus(rows[0].build_status)
