"""Deletes the chunks and manifests of an owner that none of its images names.

An upload relies on the chunks that it found in the store. So an owner is collected only while none of its images is pending, and
each batch is deleted under a lock that the insertion of a pending image takes too: an image that is begun meanwhile ends
the collection before its first chunk is looked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from functools import partial
from typing import Final

from wrenn.base.errors import InvalidRequest, WrennError
from wrenn.base.ids import ImageId, TeamId
from wrenn.control.db import Database, Transaction
from wrenn.control.images import collection_store, store
from wrenn.control.images.records import (
    ImageStatus,
    StoredImage,
    chunks_prefix,
    key_id_of_folder,
    manifest_key,
    manifests_prefix,
    team_of,
)
from wrenn.control.images.store import CollectionStart
from wrenn.control.objects import ObjectMissing, ObjectStore
from wrenn.protocol.image_manifest import MANIFEST_LIMIT_B, Manifest, digest_of

_log = logging.getLogger(__name__)

_BATCH: Final = 500
"""Objects that are deleted under one lock, for which the begin of an image waits."""
_LATE_S: Final = 20.0
"""As long as one request of the library takes at most."""
_ALIVE_S: Final = 5.0
"""How often the transaction that holds the lock is used while the store deletes: PostgreSQL ends one that is idle."""


class ChunkCollection:
    """Collects one owner at a time. Safe to run on any number of replicas at once.

    `late_s`: how long after a deletion has failed the store may still carry it out.
    """

    def __init__(self, database: Database, objects: ObjectStore, *, late_s: float = _LATE_S) -> None:
        self._late_s = late_s
        self._database = database
        self._objects = objects

    async def owners(self) -> list[str]:
        """Return all owners that have something in the store."""
        return await self._objects.folders()

    async def request_all(self) -> None:
        """Have all owners collected that have something in the store."""
        await collection_store.delete_done(self._database)
        teams: list[TeamId | None] = []
        for owner in await self.owners():
            try:
                teams.append(team_of(owner))
            except InvalidRequest as error:
                _log.warning(
                    "folder in the store not collected", extra={"owner": owner, "cause": error.message}
                )
        await self._database.transaction(lambda tx: collection_store.request(tx, teams))

    async def collect_due(self, *, again_s: float) -> None:
        """Collect the owners that are to be collected. One that cannot be is due again in `again_s`."""
        await self.collect_all(await collection_store.take_due(self._database, again_s=again_s))

    async def collect_all(self, owners: Sequence[str]) -> None:
        """Collect these owners. Failures are logged and hold up no other owner."""
        for owner in owners:
            try:
                await self.collect(owner)
            except InvalidRequest as error:
                await collection_store.drop(self._database, owner)
                _log.warning(
                    "owner in the store not collected", extra={"owner": owner, "cause": error.message}
                )
            except WrennError as error:
                await collection_store.note_failed(self._database, owner)
                _log.warning("store not collected yet", extra={"owner": owner, "cause": error.message})

    async def collect(self, owner: str) -> None:
        """Delete what no image of this owner names. While an image is pending, only note that it could not be done.

        Raises:
            StoreUnavailable: nothing that is needed was deleted. InvalidRequest: it is no owner, or a manifest cannot be read.
        """
        team_id = team_of(owner)
        start = await self._database.transaction(lambda tx: store.begin_collection(tx, owner, team_id))
        if start is not None and await self._collect(owner, team_id, start):
            await collection_store.note_collected(self._database, owner, since=start.at)
        else:
            await self._database.transaction(lambda tx: collection_store.note_blocked(tx, team_id))

    async def _collect(self, owner: str, team_id: TeamId | None, start: CollectionStart) -> bool:
        """Delete what none of these images names; returns whether no other image was begun meanwhile."""
        keys: set[str] = set()
        # By the key of the store with which they are encrypted.
        chunks: dict[str | None, set[bytes]] = {}
        for image in start.images:
            if image.manifest_digest is not None:
                key = manifest_key(owner, image.image_id, image.manifest_digest)
                keys.add(key)
                try:
                    chunks.setdefault(image.key_id, set()).update(await self._chunks_of(key, image))
                except ObjectMissing:
                    # It was removed from the store, and waits for hosts that do not answer.
                    if image.status is not ImageStatus.REMOVING:
                        raise
        unnamed: list[str] = []
        for folder in await self._objects.folders(owner):
            has_chunks, key_id = key_id_of_folder(folder)
            if has_chunks:
                unnamed += [
                    found.key
                    async for page in self._objects.pages(chunks_prefix(owner, key_id))
                    for found in page
                    if not _is_named(found.key, chunks.get(key_id, set()))
                ]
        unnamed += [
            found.key
            async for page in self._objects.pages(manifests_prefix(owner))
            for found in page
            if found.key not in keys
        ]
        # Without those whose upload has not begun: one that begins relies on chunks, as that of a new image does.
        known = {image.image_id for image in start.images if image.status is not ImageStatus.PENDING}
        for begin in range(0, len(unnamed), _BATCH):
            if not await self._delete(owner, team_id, unnamed[begin : begin + _BATCH], known):
                return False
        if unnamed:
            _log.info(
                "unused objects deleted from the store", extra={"owner": owner, "objects": len(unnamed)}
            )
        return True

    async def _chunks_of(self, key: str, image: StoredImage) -> set[bytes]:
        """Read the names of an image's chunks. Raises WrennError if they cannot be known: then nothing may be deleted."""
        data = await self._objects.get(key, limit_b=MANIFEST_LIMIT_B)

        def parse() -> set[bytes]:
            if digest_of(data) != image.manifest_digest:
                raise InvalidRequest("A manifest in the store was altered.")
            name = partial(self._objects.keys.chunk_name, image.owner, image.key_id)
            return {bytes.fromhex(name(chunk)) for chunk in Manifest.decode(data).digests}

        return await asyncio.to_thread(parse)

    async def _delete(
        self, owner: str, team_id: TeamId | None, keys: Sequence[str], known: Collection[ImageId]
    ) -> bool:
        """Delete objects unless the owner has other images than these; returns whether they were."""

        async def delete(tx: Transaction) -> bool:
            if not await store.is_unchanged(tx, owner, team_id, known):
                return False
            deletion = asyncio.create_task(self._objects.delete(keys))
            try:
                # The lock must outlast the deletion.
                while not (await asyncio.wait({deletion}, timeout=_ALIVE_S))[0]:
                    await store.keep_alive(tx)
                if deletion.exception() is not None:
                    await self._wait_late(tx)
            finally:
                # Also where the transaction has failed: no other batch begins before.
                await asyncio.wait({deletion})
            await deletion
            return True

        return await self._database.transaction(delete)

    async def _wait_late(self, tx: Transaction) -> None:
        """Keep the lock while the store may still carry out what it has not answered: an upload would rely on what goes then."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._late_s
        while (left_s := until - loop.time()) > 0:
            await asyncio.sleep(min(left_s, _ALIVE_S))
            await store.keep_alive(tx)


def _is_named(key: str, chunks: set[bytes]) -> bool:
    try:
        return bytes.fromhex(key.rsplit("/", 1)[-1]) in chunks
    except ValueError:
        return False
