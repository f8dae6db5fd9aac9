"""Statements on builds that were announced. Times are the database's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, delete, func, insert, select, update

from wrenn.base.ids import BuildId, TeamId
from wrenn.control.db import Database, Transaction, span_s
from wrenn.control.e2b.tables import announced_builds

_TEAM_LOCK: Final = 0x616E6E62
"""First half of the advisory lock of whoever counts a team's announced builds: "annb"."""
_c = announced_builds.c


@dataclass(frozen=True, slots=True)
class AnnouncedBuild:
    """A build with what is known before its steps come.

    Attributes:
        step_numbers: for each line of its recipe the step that it is of; None: the steps have not come.
        commands: of each step that runs one, else empty.
    """

    build_id: BuildId
    name: str
    tags: tuple[str, ...]
    vcpus: int
    memory_mb: int
    disk_size_mb: int
    step_numbers: tuple[int, ...] | None
    commands: tuple[str, ...]
    created_at: datetime


def _announced(row: Row[Any]) -> AnnouncedBuild:
    return AnnouncedBuild(
        BuildId(row.id),
        row.name,
        tuple(row.tags),
        row.vcpus,
        row.memory_mb,
        row.disk_size_mb,
        None if row.step_numbers is None else tuple(row.step_numbers),
        tuple(row.commands or ()),
        row.created_at,
    )


async def insert_announced(
    tx: Transaction,
    team_id: TeamId,
    *,
    name: str,
    tags: Sequence[str],
    vcpus: int,
    memory_mb: int,
    disk_size_mb: int,
) -> AnnouncedBuild:
    """Insert a build without steps."""
    written = await tx.execute(
        insert(announced_builds)
        .values(
            id=BuildId.new().value,
            team_id=team_id.value,
            name=name,
            tags=list(tags),
            vcpus=vcpus,
            memory_mb=memory_mb,
            disk_size_mb=disk_size_mb,
        )
        .returning(*_c)
    )
    return _announced(written.one())


async def count_waiting(tx: Transaction, team_id: TeamId) -> int:
    """Count the team's builds whose steps have not come."""
    found = await tx.execute(
        select(func.count()).where(_c.team_id == team_id.value, _c.step_numbers.is_(None))
    )
    return found.scalar_one()


async def get(database: Database, team_id: TeamId, build_id: BuildId) -> AnnouncedBuild | None:
    """Return one build of the team; None: there is none."""
    found = await database.execute(
        select(announced_builds).where(_c.id == build_id.value, _c.team_id == team_id.value), repeatable=True
    )
    row = found.one_or_none()
    return None if row is None else _announced(row)


async def lock_team(tx: Transaction, team_id: TeamId) -> None:
    """Let nobody else count the team's announced builds and insert one until this transaction ends."""
    await tx.execute(select(func.pg_advisory_xact_lock(_TEAM_LOCK, func.hashtext(str(team_id.value)))))


async def delete_surplus(tx: Transaction, team_id: TeamId, *, most: int) -> None:
    """Delete the oldest of the team's builds that were started, of which it may keep `most`."""
    surplus = (
        select(_c.id)
        .where(_c.team_id == team_id.value, _c.step_numbers.is_not(None))
        .order_by(_c.created_at.desc(), _c.id)
        .offset(most)
    )
    await tx.execute(delete(announced_builds).where(_c.id.in_(surplus)))


async def set_steps(
    tx: Transaction, build_id: BuildId, step_numbers: Sequence[int], commands: Sequence[str]
) -> None:
    """Record the steps of a build, in the transaction that queues it."""
    await tx.execute(
        update(announced_builds)
        .where(_c.id == build_id.value)
        .values(step_numbers=list(step_numbers), commands=list(commands))
    )


async def delete_all(tx: Transaction, team_id: TeamId) -> None:
    """Delete all builds that a team has announced."""
    await tx.execute(delete(announced_builds).where(_c.team_id == team_id.value))


async def delete_old(database: Database, *, waiting_s: float, older_s: float) -> None:
    """Delete builds that are old, or whose steps have not come for long."""
    age = func.now() - _c.created_at
    await database.execute(
        delete(announced_builds).where(
            (age > span_s(older_s)) | ((age > span_s(waiting_s)) & _c.step_numbers.is_(None))
        )
    )
