"""Brings snapshots into the store, so that sandboxes can be created from them on other hosts (docs/design/snapshots.md).

A snapshot is uploaded by the host where it was taken, by one replica at a time: the replica holds the lease of the snapshot's row
meanwhile. A host that is to start a sandbox from a snapshot that it lacks fetches it before.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from wrenn.base.clock import Clock
from wrenn.base.errors import DeadlineExceeded, NotFound, Unavailable, WrennError
from wrenn.base.faults import fault_point
from wrenn.base.ids import HostId, ImageId, SnapshotId
from wrenn.base.loops import Loop
from wrenn.base.tasks import OwnedTasks
from wrenn.control.db import Database, HeldLeases, Transaction
from wrenn.control.hosts import TRANSFER_WAIT_S, HostClients, UploadSlots, finish_transfer
from wrenn.control.images import ImageKind, Images
from wrenn.control.quotas import Limits
from wrenn.control.snapshots import store
from wrenn.control.snapshots.records import SnapshotFiles
from wrenn.control.templates import require_any_space, require_space

_log = logging.getLogger(__name__)

_LIMIT_S: Final = 3600.0
_LOOK_AGAIN_S: Final = 0.5


class NotStoredYet(Exception):
    """The snapshot is being uploaded, or waits for its turn: ask again."""


@dataclass(frozen=True, slots=True)
class _Failure:
    error: WrennError
    at: float


class SnapshotStorage:
    """Uploads snapshots, and says from which image a host can fetch one.

    `leases`: those of snapshots that this replica has. `limits`: of a team that has none of its own.
    """

    def __init__(
        self,
        *,
        database: Database,
        clients: HostClients,
        images: Images,
        leases: HeldLeases,
        clock: Clock,
        retry_s: float,
        limits: Limits,
    ) -> None:
        self._database = database
        self._clients = clients
        self._images = images
        self._leases = leases
        self._clock = clock
        self._retry_s = retry_s
        self._limits = limits
        self._slots: UploadSlots[SnapshotId] = UploadSlots(clock)
        self._failures: dict[SnapshotId, _Failure] = {}
        self._tasks = OwnedTasks()

    async def close(self) -> None:
        """Cut off the uploads that `image_for` began."""
        await self._tasks.close()

    async def image_for(self, snapshot_id: SnapshotId, host_id: HostId, age_s: float) -> ImageId | None:
        """Return from which image a host gets this snapshot; None: the host has it. Does not wait for its upload, which it begins if it must.

        The upload outlives whoever needs it, up to a limit of its own. `age_s`: when it was first asked for the caller's sandbox: if an upload has failed since, so does this.

        Raises:
            NotStoredYet: ask again. NotFound: there is no such snapshot any more. QuotaExceeded: its team may store no more.
            Unavailable, DeadlineExceeded: the host that has it did not upload it. Else that host's reason.
        """
        files = await self._find(snapshot_id)
        if files.host.host_id == host_id:
            return None
        if files.image_id is None:
            self._begin_upload(files, asked_at=self._clock.monotonic() - age_s)
            raise NotStoredYet
        if not await store.use_copy(self._database, snapshot_id, host_id):
            raise _gone()
        return files.image_id

    def _begin_upload(self, files: SnapshotFiles, *, asked_at: float) -> None:
        """Begin an upload if none of this replica is under way and there is a slot for it; raise the error of one that failed since `asked_at`."""
        snapshot_id = files.snapshot_id
        failure = self._failures.get(snapshot_id)
        if failure is not None and failure.at >= asked_at:
            raise failure.error.with_traceback(None)
        if self._slots.take(snapshot_id, files.host.host_id, files.owner):
            self._tasks.start(f"upload {snapshot_id}", self._upload_needed(snapshot_id))

    async def _upload_needed(self, snapshot_id: SnapshotId) -> None:
        try:
            async with asyncio.timeout(_LIMIT_S):
                await self.upload(snapshot_id)
        except TimeoutError:
            self._note_failure(snapshot_id, DeadlineExceeded("The snapshot was not uploaded in time."))
        except WrennError as error:
            self._note_failure(snapshot_id, error)
        finally:
            self._slots.release(snapshot_id)

    def _note_failure(self, snapshot_id: SnapshotId, error: WrennError) -> None:
        now = self._clock.monotonic()
        self._failures = {key: each for key, each in self._failures.items() if now - each.at < _LIMIT_S}
        self._failures[snapshot_id] = _Failure(error, now)
        _log.warning("snapshot not stored", extra={"snapshot_id": str(snapshot_id), "cause": error.message})

    async def upload(self, snapshot_id: SnapshotId) -> ImageId:
        """Bring a snapshot into the store, or wait until whoever does that has done it; returns the image that it is there.

        Raises:
            As `image_for`, but for NotStoredYet.
        """
        while True:
            files = await self._find(snapshot_id)
            if files.image_id is not None:
                return files.image_id
            if await store.lease_upload(
                self._database, snapshot_id, owner=self._leases.owner, lease_s=self._leases.lease_s
            ):
                try:
                    with self._leases.renewed(snapshot_id.value):
                        return await self._upload(files)
                finally:
                    release = store.release_upload(self._database, snapshot_id, owner=self._leases.owner)
                    await asyncio.shield(release)
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _find(self, snapshot_id: SnapshotId) -> SnapshotFiles:
        files = await store.find_files(self._database, snapshot_id)
        if files is None:
            raise _gone()
        return files

    async def _upload(self, files: SnapshotFiles) -> ImageId:
        owner = files.owner
        if owner is not None:
            await self._database.transaction(lambda tx: require_any_space(tx, owner, self._limits))
        image_id = await self._images.begin_alone(
            files.owner, files.host.host_id, ImageKind.SNAPSHOT, retry_s=self._retry_s
        )
        await fault_point("control.store_snapshot.after_begin")
        with self._images.renewing_lease(image_id):
            try:
                client = self._clients.at(files.host)

                async def require_wanted() -> None:
                    await self._find(files.snapshot_id)

                await finish_transfer(
                    lambda: client.store_snapshot(files.snapshot_id, image_id, wait_s=TRANSFER_WAIT_S),
                    before_call=require_wanted,
                    retry_s=self._retry_s,
                )
                await fault_point("control.store_snapshot.after_upload")

                async def publish(tx: Transaction) -> None:
                    size_b = await self._images.publish(tx, image_id)
                    if owner is not None:
                        await require_space(tx, owner, size_b, self._limits)
                    if not await store.set_stored(tx, files.snapshot_id, image_id, owner=self._leases.owner):
                        raise Unavailable(
                            "The upload of the snapshot took too long and was taken back. Try again."
                        )

                await self._database.transaction(publish)
            except BaseException:
                await asyncio.shield(self._images.give_up(image_id))
                raise
        await fault_point("control.store_snapshot.after_publish")
        _log.info("snapshot stored", extra={"snapshot_id": str(files.snapshot_id), "image_id": str(image_id)})
        return image_id


class BackgroundUploads:
    """Uploads the snapshots of all templates, whether or not another host needs them."""

    def __init__(
        self,
        *,
        database: Database,
        storage: SnapshotStorage,
        clock: Clock,
        interval_s: float,
    ) -> None:
        self._database = database
        self._storage = storage
        self._interval_s = interval_s
        self._slots: UploadSlots[SnapshotId] = UploadSlots(clock)
        self._tasks = OwnedTasks()
        self.loop = Loop("upload snapshots")

    async def run(self) -> None:
        """Look at an interval for what is not stored, until cancelled."""
        try:
            await self.loop.run(self.begin_once, every_s=self._interval_s)
        finally:
            await self._tasks.close()

    async def begin_once(self) -> None:
        """Begin to upload what is not stored, as much as may be uploaded at once."""
        if not self._slots.free:
            return
        found = await store.not_stored(
            self._database,
            limit=self._slots.free,
            busy_hosts=self._slots.busy_hosts(),
            busy_teams=self._slots.busy_teams(),
            except_for=self._slots.not_now(),
        )
        for files in found:
            if self._slots.take(files.snapshot_id, files.host.host_id, files.owner):
                self._tasks.start(f"upload {files.snapshot_id}", self._upload(files.snapshot_id))

    async def _upload(self, snapshot_id: SnapshotId) -> None:
        try:
            async with asyncio.timeout(_LIMIT_S):
                await self._storage.upload(snapshot_id)
        except (WrennError, TimeoutError) as error:
            self._slots.note_failure(snapshot_id)
            _log.warning(
                "snapshot not stored yet", extra={"snapshot_id": str(snapshot_id), "cause": str(error)}
            )
        finally:
            self._slots.release(snapshot_id)
            self.loop.wake()


def _gone() -> NotFound:
    return NotFound("The snapshot that it is made from was removed.")
