"""Statements on the archives of COPY steps. A row is there before its object in the store, and after it. Times are the database's."""

from __future__ import annotations

from sqlalchemy import BigInteger, and_, case, delete, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from wrenn.base.ids import TeamId
from wrenn.control.db import Database, span_s
from wrenn.control.e2b.tables import builder_files

_c = builder_files.c


async def begin_upload(database: Database, team_id: TeamId, files_hash: str) -> None:
    """Record that an archive is being uploaded. One that is there already stays usable until it is replaced."""
    statement = insert(builder_files).values(team_id=team_id.value, hash=files_hash)
    await database.execute(
        statement.on_conflict_do_update(index_elements=[_c.team_id, _c.hash], set_={"used_at": func.now()})
    )


async def finish_upload(database: Database, team_id: TeamId, files_hash: str, size_bytes: int) -> None:
    """Record that an archive is in the store."""
    await database.execute(
        update(builder_files)
        .where(_c.team_id == team_id.value, _c.hash == files_hash)
        .values(size_bytes=size_bytes, used_at=func.now())
    )


async def use(database: Database, team_id: TeamId, files_hash: str) -> bool:
    """Return whether an archive is in the store; it counts as used now."""
    found = await database.execute(
        update(builder_files)
        .where(_c.team_id == team_id.value, _c.hash == files_hash, _c.size_bytes.is_not(None))
        .values(used_at=func.now())
        .returning(_c.hash)
    )
    return found.one_or_none() is not None


async def expired(
    database: Database, *, older_s: float, bytes_of_team: int, unused_s: float, limit: int
) -> list[tuple[TeamId, str]]:
    """Return archives that are to be deleted: not used for long, or of a team that has more, the least recently used ones first.

    One that was used within `unused_s` is kept in any case: a build may be about to take it.
    """
    size = case((_c.size_bytes.is_(None), 0), else_=_c.size_bytes)
    newer = func.sum(size).over(partition_by=_c.team_id, order_by=(_c.used_at.desc(), _c.hash))
    all_files = select(_c.team_id, _c.hash, _c.used_at, newer.label("together")).cte("all_files")
    files = all_files.c
    statement = (
        select(files.team_id, files.hash)
        .where(
            or_(
                files.used_at < func.now() - span_s(older_s),
                and_(
                    files.together > literal(bytes_of_team, BigInteger),
                    files.used_at < func.now() - span_s(unused_s),
                ),
            )
        )
        .order_by(files.used_at)
        .limit(limit)
    )
    found = await database.execute(statement, repeatable=True)
    return [(TeamId(row.team_id), row.hash) for row in found]


async def forget(database: Database, team_id: TeamId, files_hash: str) -> None:
    """Delete the row of an archive, after its object."""
    await database.execute(delete(builder_files).where(_c.team_id == team_id.value, _c.hash == files_hash))
