"""Statements on the archives of COPY steps. A row is there before its object in the store, and after it. Times are the database's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import BigInteger, and_, cast, delete, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from wrenn.base.errors import NotFound, RateLimited
from wrenn.base.ids import TeamId
from wrenn.base.units import MIB
from wrenn.control.db import Database, Transaction, span_s
from wrenn.control.e2b.tables import builder_files, used_upload_links
from wrenn.control.e2b.upload_links import UploadLink
from wrenn.control.identity import lock_active_team, may_write
from wrenn.protocol.image_manifest import ARCHIVE_LIMIT_B

_c = builder_files.c


_TEAM_LOCK: Final = 0x62666C65
"""First half of the advisory lock of whoever counts what a team has uploaded: "bfle"."""
_DELETED_AT: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""`used_at` of an archive whose object is being deleted."""


@dataclass(frozen=True, slots=True)
class StoredFiles:
    """An archive as it was read."""

    team_id: TeamId
    files_hash: str
    used_at: datetime


async def require_valid(database: Database, link: UploadLink) -> None:
    """Return if the link was not used, and its holder has access to the team.

    Raises:
        NotFound: it is not so.
    """
    await database.transaction(lambda tx: _require_valid(tx, link))


async def _require_valid(tx: Transaction, link: UploadLink) -> None:
    found = await tx.execute(select(used_upload_links.c.id).where(used_upload_links.c.id == link.link_id))
    if found.one_or_none() is not None or not await may_write(tx, link.team_id, link.holder):
        raise NotFound("The link for the upload is not valid any more.")


async def begin_upload(
    database: Database,
    link: UploadLink,
    size_bytes: int,
    *,
    bytes_of_team: int,
    files_of_team: int,
) -> None:
    """Use the link: record that an archive is about to be stored. One that is there already stays usable until it is replaced.

    Raises:
        NotFound: as `require_valid`. RateLimited: the team would have more than it may. Unauthorized: the team is gone. The link is not used then.
    """
    team_id, files_hash = link.team_id, link.files_hash

    async def insert_row(tx: Transaction) -> None:
        await lock_active_team(tx, team_id)
        await tx.execute(select(func.pg_advisory_xact_lock(_TEAM_LOCK, func.hashtext(str(team_id.value)))))
        await _require_valid(tx, link)
        await tx.execute(insert(used_upload_links).values(id=link.link_id, expires_at=link.expires_at))
        # One whose upload was broken off may have any size.
        used = func.coalesce(func.sum(func.coalesce(_c.size_bytes, ARCHIVE_LIMIT_B)), 0)
        found = await tx.execute(
            select(func.count().label("files"), cast(used, BigInteger).label("bytes")).where(
                _c.team_id == team_id.value, _c.hash != files_hash
            )
        )
        others = found.one()
        if others.files >= files_of_team or others.bytes + size_bytes > bytes_of_team:
            raise RateLimited(
                f"The team has uploaded more files of COPY steps than are kept ({files_of_team} archives, "
                f"{bytes_of_team // MIB} MiB). Those that no build has used for an hour are deleted: try again later."
            )
        statement = insert(builder_files).values(team_id=team_id.value, hash=files_hash)
        await tx.execute(
            statement.on_conflict_do_update(
                index_elements=[_c.team_id, _c.hash], set_={"used_at": func.now()}
            )
        )

    await database.transaction(insert_row)


async def finish_upload(database: Database, team_id: TeamId, files_hash: str, size_bytes: int) -> bool:
    """Record that an archive is in the store; False: it is being deleted."""
    written = await database.execute(
        update(builder_files)
        .where(_c.team_id == team_id.value, _c.hash == files_hash, _c.used_at > _DELETED_AT)
        .values(size_bytes=size_bytes, used_at=func.now())
        .returning(_c.hash)
    )
    return written.one_or_none() is not None


async def is_present(database: Database, team_id: TeamId, files_hash: str) -> bool:
    """Return whether an archive is in the store."""
    found = await database.execute(
        select(_c.hash).where(_c.team_id == team_id.value, _c.hash == files_hash, _c.size_bytes.is_not(None)),
        repeatable=True,
    )
    return found.one_or_none() is not None


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
    database: Database, *, older_s: float, bytes_of_team: int, files_of_team: int, unused_s: float, limit: int
) -> list[StoredFiles]:
    """Return archives that are to be deleted: not used for long, or of a team that has more, the least recently used ones first.

    One that was used within `unused_s` is kept in any case: a build may be about to take it.
    """
    size = func.coalesce(_c.size_bytes, ARCHIVE_LIMIT_B)
    newest_first = (_c.used_at.desc(), _c.hash)
    all_files = select(
        _c.team_id,
        _c.hash,
        _c.used_at,
        func.sum(size).over(partition_by=_c.team_id, order_by=newest_first).label("together"),
        func.row_number().over(partition_by=_c.team_id, order_by=newest_first).label("place"),
    ).cte("all_files")
    files = all_files.c
    statement = (
        select(files.team_id, files.hash, files.used_at)
        .where(
            or_(
                files.used_at < func.now() - span_s(older_s),
                and_(
                    or_(
                        files.together > literal(bytes_of_team, BigInteger),
                        files.place > files_of_team,
                    ),
                    files.used_at < func.now() - span_s(unused_s),
                ),
            )
        )
        .order_by(files.used_at)
        .limit(limit)
    )
    found = await database.execute(statement, repeatable=True)
    return [StoredFiles(TeamId(row.team_id), row.hash, row.used_at) for row in found]


async def expire_all(tx: Transaction, team_id: TeamId) -> None:
    """Have all archives of a team deleted that is deleted in this transaction. No upload of it begins after that."""
    await tx.execute(
        update(builder_files).where(_c.team_id == team_id.value).values(size_bytes=None, used_at=_DELETED_AT)
    )


async def delete_used_links(database: Database) -> None:
    """Forget links that have expired."""
    await database.execute(delete(used_upload_links).where(used_upload_links.c.expires_at < func.now()))


async def begin_deletion(database: Database, files: StoredFiles) -> bool:
    """Let no build take an archive any more, before its object is deleted. False: it has been used since it was read."""
    found = await database.execute(
        update(builder_files)
        .where(_c.team_id == files.team_id.value, _c.hash == files.files_hash, _c.used_at == files.used_at)
        .values(size_bytes=None, used_at=_DELETED_AT)
        .returning(_c.hash)
    )
    return found.one_or_none() is not None


async def finish_deletion(database: Database, files: StoredFiles) -> None:
    """Delete the row of an archive, after its object. If it was uploaded meanwhile, that object may be the deleted one: delete again."""
    is_file = and_(_c.team_id == files.team_id.value, _c.hash == files.files_hash)
    await database.execute(delete(builder_files).where(is_file, _c.used_at == _DELETED_AT))
    await database.execute(update(builder_files).where(is_file).values(size_bytes=None, used_at=_DELETED_AT))
