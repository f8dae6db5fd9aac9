"""Removes images that nothing uses any more from hosts and store, images of makers that died, and images without a row on hosts.

The rows are read first, then hosts and store are asked. May run on any number of replicas at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from wrenn.base.clock import Clock
from wrenn.base.errors import DeadlineExceeded, Unavailable, WrennError
from wrenn.base.ids import HostId, ImageId
from wrenn.base.loops import Loop
from wrenn.control.db import Database, Transaction
from wrenn.control.hosts import REMOVALS_A_ROUND, FirstMet, Host, HostClients, HostRounds, all_hosts
from wrenn.control.images import collection_store, store
from wrenn.control.images.chunk_collection import ChunkCollection
from wrenn.control.images.records import ImageKind, StoredImage, manifests_prefix
from wrenn.control.objects import ObjectStore

_log = logging.getLogger(__name__)

_LIST_TIMEOUT_S: Final = 10.0
_REMOVE_TIMEOUT_S: Final = 30.0
_ALL_HOSTS_S: Final = 600.0
"""How often hosts are asked for images that have no row, though none is to be removed."""
_COLLECTION_S: Final = 6 * 3600.0
"""How often all owners are collected; one whose image was removed, at once."""

_AGAIN_S: Final = 30.0
"""An owner is collected at most so often: one that could not be, for instance as one of its images is being made, is then tried again."""

FindUsers = Callable[[Database, Collection[ImageId]], Awaitable[set[ImageId]]]
"""Returns those of these images that something of one kind is made of."""


class ImageSweep:
    """Removes images, and the garbage that they leave in the store."""

    def __init__(
        self,
        *,
        database: Database,
        clients: HostClients,
        objects: ObjectStore,
        clock: Clock,
        find_users: Sequence[FindUsers],
        interval_s: float,
        unknown_grace_s: float,
    ) -> None:
        self._database = database
        self._clients = clients
        self._objects = objects
        self._clock = clock
        self._find_users = find_users
        self._interval_s = interval_s
        self._unknown_grace_s = unknown_grace_s
        self._collection = ChunkCollection(database, objects)
        self.loop = Loop("sweep images")
        self._rounds = HostRounds("sweep images")
        self._unknown: FirstMet[ImageId] = FirstMet()
        # Of each image that is to be removed: the hosts that do not have it (any more).
        self._absent: dict[ImageId, set[HostId]] = {}
        self._out_of_store: set[ImageId] = set()
        # Behind which image the next round begins, if there are more than one round looks at.
        self._after: ImageId | None = None
        # Hosts that had images without a row, or could not be asked for them.
        self._unsettled: set[HostId] = set()
        # A restart is no reason to ask all hosts and to read all manifests.
        self._collection_at = self._all_hosts_at = clock.monotonic()

    async def run(self) -> None:
        """Sweep at an interval, until cancelled."""
        try:
            await self.loop.run(self._sweep_due, every_s=self._interval_s)
        finally:
            await self._rounds.close()

    async def sweep_once(self) -> None:
        """Sweep all hosts and collect all owners now."""
        self._all_hosts_at = -math.inf
        await self._sweep_due()
        await self._collection.collect_all(await self._collection.owners())

    async def _sweep_due(self) -> None:
        for image_id in await store.retire_abandoned(self._database):
            _log.warning("abandoned image taken back", extra={"image_id": str(image_id)})
        await store.retire_saved_states(self._database)
        unused = await self._unused()
        await self._visit_hosts(
            {image_id: image for image_id, image in unused.items() if image.kind is ImageKind.TEMPLATE}
        )
        for image in unused.values():
            await self._remove(image)
        await self._collect()

    async def _unused(self) -> dict[ImageId, StoredImage]:
        """Return images that are to be removed and that nothing uses."""
        page, self._after = await store.removing(self._database, after=self._after)
        found = {image.image_id: image for image in page}
        self._absent = {image_id: self._absent.get(image_id, set()) for image_id in found}
        self._out_of_store &= found.keys()
        if found:
            for find_users in self._find_users:
                for used in await find_users(self._database, list(found)):
                    found.pop(used, None)
        return found

    async def _visit_hosts(self, unused: dict[ImageId, StoredImage]) -> None:
        now = self._clock.monotonic()
        is_all_due = now - self._all_hosts_at >= _ALL_HOSTS_S
        if not unused and not is_all_due and not self._unsettled:
            return
        hosts = await all_hosts(self._database)
        self._unknown.keep_hosts(hosts)
        present = {host.host_id for host in hosts}
        self._unsettled &= present
        if unused:
            # The rows do not wait for them: when they answer again, what they still have is without a row.
            self._unsettled |= {host.host_id for host in hosts if not host.is_reachable}
        for image_id in unused:
            self._absent[image_id] &= present
        due = [
            host
            for host in hosts
            if host.is_reachable
            and (
                is_all_due
                or host.host_id in self._unsettled
                or any(host.host_id not in self._absent[image_id] for image_id in unused)
            )
        ]
        if is_all_due:
            self._all_hosts_at = now
        await self._rounds.run(due, lambda host: self._visit(host, unused))

    async def _visit(self, host: Host, unused: dict[ImageId, StoredImage]) -> None:
        client = self._clients.at(host.endpoint)
        try:
            reported = {image.image_id for image in await client.list_images(timeout_s=_LIST_TIMEOUT_S)}
        except WrennError as error:
            if not isinstance(error, Unavailable | DeadlineExceeded):
                _log.warning(
                    "host did not list its images",
                    extra={"host_id": str(host.host_id), "cause": error.message},
                )
            return
        for image_id in unused.keys() - reported:
            self._absent.setdefault(image_id, set()).add(host.host_id)
        unknown = reported - await store.existing_among(self._database, reported)
        # They are looked at again, when their grace is over.
        (self._unsettled.add if unknown else self._unsettled.discard)(host.host_id)
        now = self._clock.monotonic()
        first_met = self._unknown.update(host.host_id, list(unknown), now=now)
        due = [image_id for image_id in unused if image_id in reported]
        due += [image_id for image_id, first in first_met.items() if now - first >= self._unknown_grace_s]
        for image_id in due[:REMOVALS_A_ROUND]:
            self._unknown.postpone(host.host_id, image_id)
            try:
                await client.remove_image(image_id, timeout_s=_REMOVE_TIMEOUT_S)
            except WrennError as error:
                _log.warning(
                    "image not removed from host yet",
                    extra={"image_id": str(image_id), "host_id": str(host.host_id), "cause": error.message},
                )
                continue
            self._unknown.forget(host.host_id, image_id)
            if image_id in unused:
                self._absent.setdefault(image_id, set()).add(host.host_id)

    async def _remove(self, image: StoredImage) -> None:
        """Remove an image from the store; then, when no host that answers has it, its row."""
        image_id = image.image_id
        try:
            if image_id not in self._out_of_store:
                async for page in self._objects.pages(manifests_prefix(image.owner, image_id)):
                    await self._objects.delete([found.key for found in page])
                self._out_of_store.add(image_id)
        except WrennError as error:
            _log.warning(
                "image not removed from the store yet",
                extra={"image_id": str(image_id), "cause": error.message},
            )
            return
        hosts = {host.host_id for host in await all_hosts(self._database) if host.is_reachable}
        is_nowhere = image.kind is not ImageKind.TEMPLATE or hosts <= self._absent.get(image_id, set())
        if is_nowhere:
            await self._database.transaction(lambda tx: self._delete_row(tx, image))

    async def _delete_row(self, tx: Transaction, image: StoredImage) -> None:
        if await store.delete_row(tx, image.image_id):
            await collection_store.request(tx, [image.team_id])

    async def _collect(self) -> None:
        now = self._clock.monotonic()
        if now - self._collection_at >= _COLLECTION_S:
            self._collection_at = now
            try:
                await self._collection.request_all()
            except WrennError as error:
                _log.warning("store not listed", extra={"cause": error.message})
        await self._collection.collect_due(again_s=_AGAIN_S)
