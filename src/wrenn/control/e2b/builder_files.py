"""The files of COPY steps: uploaded as archives by their hash, kept in the store, and put together for a build."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from typing import BinaryIO, Final
from uuid import UUID

from wrenn.base.errors import Conflict, DeadlineExceeded, InvalidRequest, RateLimited, TooLarge
from wrenn.base.faults import fault_point
from wrenn.base.ids import TeamId
from wrenn.base.loops import Loop
from wrenn.base.secrets import Secret
from wrenn.base.units import GIB, MIB
from wrenn.control.audit import Actor
from wrenn.control.builds import ScratchSpace, receive_archive
from wrenn.control.db import Database, Transaction
from wrenn.control.e2b import announced_store, file_store
from wrenn.control.e2b.upload_links import UploadLink, UploadLinks
from wrenn.control.identity import OwnerShare, owning_user_of
from wrenn.control.images import owner_name
from wrenn.control.objects import ObjectStore
from wrenn.protocol.image_manifest import ARCHIVE_LIMIT_B
from wrenn.recipe.archive import CHUNK_B, MAX_UNPACKED_B, ContextArchive, Readable, packed_below
from wrenn.recipe.limits import MAX_ENTRIES
from wrenn.recipe.tar_index import BLOCK_B

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_UPLOAD_TIMEOUT_S: Final = 1800.0
_PACKING_TIMEOUT_S: Final = 600.0
_RECEIVED_AT_ONCE: Final = 32
"""Archives that this replica receives, into temporary files."""
_OF_OWNER: Final = 4
"""Of these, of all teams of one owner."""
_STORED_AT_ONCE: Final = 2
"""Archives that this replica holds in memory, while they go to the store."""
_PACKED_AT_ONCE: Final = 2
"""Builds whose archives this replica puts together; each holds one of them in memory."""


class BuilderFiles:
    """Takes uploads, and hands a build the archive with all files of its COPY steps."""

    # Twice what `BuilderRetention` lets a team keep of what no build has used for an hour.
    _BYTES_OF_TEAM: Final = 4 * GIB
    _FILES_OF_TEAM: Final = 1_000

    def __init__(
        self, *, database: Database, objects: ObjectStore, scratch: ScratchSpace, secret: Secret
    ) -> None:
        self._database = database
        self._objects = objects
        self._scratch = scratch
        self.links = UploadLinks(secret)
        self._in_memory = asyncio.Semaphore(_STORED_AT_ONCE)
        self._packing = asyncio.Semaphore(_PACKED_AT_ONCE)
        self._uploading: set[TeamId] = set()
        self._owners = OwnerShare(
            database, limit=_OF_OWNER, what="uploads of files", scarce_from=_RECEIVED_AT_ONCE // 2
        )
        self._packing_for: set[TeamId] = set()

    async def is_present(self, team_id: TeamId, files_hash: str) -> bool:
        """Return whether these files are here. Raises InvalidRequest: it is no hash."""
        _check_hash(files_hash)
        return await file_store.is_present(self._database, team_id, files_hash)

    async def use(self, team_id: TeamId, files_hash: str) -> bool:
        """Return whether these files are here; they count as used now. Raises InvalidRequest: it is no hash."""
        _check_hash(files_hash)
        return await file_store.use(self._database, team_id, files_hash)

    async def upload(self, text: str, content: AsyncIterator[bytes]) -> None:
        """Store what is uploaded to a link, which is used then.

        Raises:
            NotFound: the link is not valid any more, was used, or never was one. TooLarge. Conflict: the former files of this hash are
                being deleted.
            RateLimited: another upload of the team is under way, or too many of others, or the team has too many files.
            DeadlineExceeded.
        """
        link = self.links.read(text)
        team_id = link.team_id
        # Looked at again when it is used: nothing is received for one who has no access.
        await file_store.require_valid(self._database, link)
        if team_id in self._uploading:
            raise RateLimited("The team uploads other files at this moment. Try again.")
        if len(self._uploading) >= _RECEIVED_AT_ONCE:
            raise RateLimited("Too many files are uploaded at this moment. Try again.")
        self._uploading.add(team_id)
        try:
            async with self._owners.taken(team_id) as owner, self._temporary_file(owner) as received:
                async with asyncio.timeout(_UPLOAD_TIMEOUT_S):
                    await receive_archive(content, received, timeout_s=_UPLOAD_TIMEOUT_S)
                    async with self._in_memory:
                        await self._store(link, received)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"The archive was not received within {_UPLOAD_TIMEOUT_S:.0f} s."
            ) from error
        finally:
            self._uploading.discard(team_id)

    @asynccontextmanager
    async def together(
        self, team_id: TeamId, folders: Mapping[str, str]
    ) -> AsyncGenerator[AsyncIterator[bytes] | None]:
        """Give one archive in which the files with each hash are below the folder that the mapping names; None: it names none.

        Raises:
            InvalidRequest: an archive is damaged, or has what is not accepted. TooLarge. NotFound: it is gone.
            RateLimited: another build of the team is put together. DeadlineExceeded.
        """
        if not folders:
            yield None
            return
        if team_id in self._packing_for:
            raise RateLimited(
                "The files of another build of the team are put together at this moment. Try again."
            )
        self._packing_for.add(team_id)
        try:
            owner = await owning_user_of(self._database, team_id)
            async with self._temporary_file(owner) as packed:
                try:
                    async with asyncio.timeout(_PACKING_TIMEOUT_S), self._packing:
                        await self._pack(team_id, folders, packed)
                except TimeoutError as error:
                    raise DeadlineExceeded(
                        f"The files of the COPY steps were not put together within {_PACKING_TIMEOUT_S:.0f} s."
                    ) from error
                yield _pieces(packed)
        finally:
            self._packing_for.discard(team_id)

    @asynccontextmanager
    async def _temporary_file(self, owner: UUID) -> AsyncGenerator[BinaryIO]:
        file = await asyncio.to_thread(self._scratch.new, owner)
        try:
            yield file
        finally:
            await asyncio.to_thread(file.close)

    async def _store(self, link: UploadLink, received: BinaryIO) -> None:
        team_id, files_hash = link.team_id, link.files_hash
        received.seek(0)
        archive = await asyncio.to_thread(received.read)
        # The row first: without it nobody would delete the object.
        await file_store.begin_upload(
            self._database,
            link,
            len(archive),
            bytes_of_team=self._BYTES_OF_TEAM,
            files_of_team=self._FILES_OF_TEAM,
        )
        await self._objects.put(key_of(team_id, files_hash), archive)
        await fault_point("control.e2b.files_stored")
        if not await file_store.finish_upload(self._database, team_id, files_hash, len(archive)):
            raise Conflict("Old files with this hash are being deleted. Try again.")

    async def _pack(self, team_id: TeamId, folders: Mapping[str, str], packed: BinaryIO) -> None:
        """Unpack one archive after the other, within the limits of a single one: a client may send the same under many hashes."""
        packing = _Packing(packed)
        try:
            for files_hash, folder in folders.items():
                data = await self._objects.get(key_of(team_id, files_hash), limit_b=ARCHIVE_LIMIT_B)
                await asyncio.to_thread(packing.add, folder, BytesIO(data))
            await asyncio.to_thread(packing.finish)
        finally:
            packing.close()
        packed.seek(0)


async def _pieces(packed: BinaryIO) -> AsyncIterator[bytes]:
    while data := await asyncio.to_thread(packed.read, CHUNK_B):
        yield data


def _check_hash(files_hash: str) -> None:
    if _HASH.fullmatch(files_hash) is None:
        raise InvalidRequest("hash: must be 64 hexadecimal digits.")


class _Packing:
    """Writes the content of archives into one. Blocks on files: call it in a thread."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._compressed = gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1)
        self._unpacked_left_b = MAX_UNPACKED_B
        self._entries_left = MAX_ENTRIES

    def add(self, folder: str, uploaded: Readable) -> None:
        """Add the content of an archive below a folder. Raises InvalidRequest, TooLarge."""
        with ContextArchive.open(uploaded, limit_b=self._unpacked_left_b) as archive:
            self._unpacked_left_b -= archive.unpacked_b
            self._entries_left -= archive.entry_count
            if self._entries_left < 0:
                raise TooLarge(f"The files of all COPY steps together are more than {MAX_ENTRIES}.")
            for piece in packed_below(folder, archive):
                self._compressed.write(piece)
                if self._packed.tell() > ARCHIVE_LIMIT_B:
                    raise TooLarge(
                        f"The files of all COPY steps together have more than {ARCHIVE_LIMIT_B // MIB} MiB."
                    )

    def finish(self) -> None:
        """Write the end of the archive."""
        self._compressed.write(bytes(2 * BLOCK_B))
        self._compressed.close()

    def close(self) -> None:
        """End the compression, whether the archive is complete or not."""
        self._compressed.close()


def key_of(team_id: TeamId, files_hash: str) -> str:
    """Return where the store has the archive."""
    return f"{owner_name(team_id)}/builder-files/{files_hash}"


async def remove_all_of_team(tx: Transaction, team_id: TeamId, _by: Actor) -> None:
    """Forget what a team has announced, and have its archives deleted by the retention, as the team is deleted in this transaction."""
    await announced_store.delete_all(tx, team_id)
    await file_store.expire_all(tx, team_id)


class BuilderRetention:
    """Deletes archives and announced builds that are old, at an interval. Any number of replicas may do it."""

    _EVERY_S: Final = 600.0
    _OLD_S: Final = 7 * 86_400.0
    _BYTES_OF_TEAM: Final = 2 * GIB
    _FILES_OF_TEAM: Final = 500
    _UNUSED_S: Final = 3600.0
    _AT_ONCE: Final = 200
    _WAITING_S: Final = 86_400.0
    _BUILDS_OLD_S: Final = 31 * 86_400.0

    def __init__(self, database: Database, objects: ObjectStore) -> None:
        self._database = database
        self._objects = objects
        self.loop = Loop("delete old files of builds")

    async def run(self) -> None:
        """Delete what is old at an interval, until cancelled."""
        await self.loop.run(self.delete_old, every_s=self._EVERY_S)

    async def delete_old(self) -> None:
        """Delete what is old now."""
        while found := await file_store.expired(
            self._database,
            older_s=self._OLD_S,
            bytes_of_team=self._BYTES_OF_TEAM,
            files_of_team=self._FILES_OF_TEAM,
            unused_s=self._UNUSED_S,
            limit=self._AT_ONCE,
        ):
            for files in found:
                if await file_store.begin_deletion(self._database, files):
                    await self._objects.delete([key_of(files.team_id, files.files_hash)])
                    await file_store.finish_deletion(self._database, files)
        await file_store.delete_used_links(self._database)
        await announced_store.delete_old(
            self._database, waiting_s=self._WAITING_S, older_s=self._BUILDS_OLD_S
        )
