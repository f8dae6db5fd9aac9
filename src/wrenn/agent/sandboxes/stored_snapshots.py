"""Snapshots between this host and the store: uploaded from here, or fetched before the first sandbox is created from one (docs/design/moves.md)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final
from weakref import WeakValueDictionary

from wrenn.agent.sandboxes.export_state import ExportState, SavedState
from wrenn.agent.sandboxes.fetch_snapshot import FetchSnapshot
from wrenn.agent.sandboxes.fetch_state import HoldGarbage
from wrenn.agent.sandboxes.transfers import Transfer
from wrenn.base.errors import NotFound, Unavailable
from wrenn.base.ids import ImageId, SnapshotId
from wrenn.storage import snapshots

_log = logging.getLogger(__name__)

_FETCHES: Final = 3
"""How often a fetch begins again, when files that were on this host are collected meanwhile."""

StartWork = Callable[[str, Coroutine[Any, Any, None]], "asyncio.Task[None]"]
"""Runs an upload as a task that ends with the agent."""


class StoredSnapshots:
    """Uploads and fetches snapshots. The semaphores are those of all transfers of this host."""

    def __init__(
        self,
        export: ExportState,
        fetch: FetchSnapshot,
        *,
        start_work: StartWork,
        hold_garbage: HoldGarbage,
        uploads: asyncio.Semaphore,
        fetches: asyncio.Semaphore,
    ) -> None:
        self._export = export
        self._fetch = fetch.run
        self._root = export.layout.snapshots
        self._start_work = start_work
        self._hold_garbage = hold_garbage
        self._uploads = uploads
        self._fetches = fetches
        self._transfers: dict[SnapshotId, Transfer] = {}
        self._fetching: WeakValueDictionary[SnapshotId, asyncio.Lock] = WeakValueDictionary()

    async def store(self, snapshot_id: SnapshotId, image_id: ImageId, *, wait_s: float) -> Transfer:
        """Begin to upload a snapshot as this image, or join the upload, and return its state after at most `wait_s`.

        Its end is returned once; the next call begins again. A call with another image cancels it.

        Raises:
            NotFound: this host does not have the snapshot.
        """
        if not snapshots.is_pinned(self._root, str(snapshot_id)):
            raise NotFound(f"There is no snapshot {snapshot_id} on this host.")
        while (transfer := self._transfers.get(snapshot_id)) is not None and transfer.image_id != image_id:
            await transfer.cancel()
            self._forget(snapshot_id, transfer)
        if transfer is None:
            transfer = self._transfers[snapshot_id] = Transfer(image_id)
            work = transfer.run(self._store(snapshot_id, transfer))
            transfer.task = self._start_work(f"store {snapshot_id}", work)
        await transfer.wait(wait_s)
        if transfer.is_done:
            self._forget(snapshot_id, transfer)
        return transfer

    def _forget(self, snapshot_id: SnapshotId, transfer: Transfer) -> None:
        if self._transfers.get(snapshot_id) is transfer:
            del self._transfers[snapshot_id]

    async def _store(self, snapshot_id: SnapshotId, transfer: Transfer) -> None:
        async with self._uploads:
            state = SavedState.of_snapshot(snapshots.find(self._root, str(snapshot_id)).manifest)
            scratch = snapshots.draft_path(self._root, f"outgoing-{snapshot_id}")
            transfer.sent_b = await self._export.run(state, transfer.image_id, scratch, transfer.report)

    async def require(self, snapshot_id: SnapshotId, image_id: ImageId) -> None:
        """Fetch the snapshot, which is this image in the store, unless this host has it. Concurrent calls share a fetch.

        Raises:
            As `FetchSnapshot.run`.
        """
        lock = self._fetching.get(snapshot_id)
        if lock is None:
            lock = self._fetching[snapshot_id] = asyncio.Lock()
        async with lock:
            attempts = 0
            while not snapshots.is_pinned(self._root, str(snapshot_id)):
                attempts += 1
                try:
                    async with self._fetches:
                        await self._fetch(snapshot_id, image_id, hold_garbage=self._hold_garbage)
                except Unavailable:
                    if attempts == _FETCHES:
                        raise
                else:
                    _log.info("snapshot fetched", extra={"snapshot_id": str(snapshot_id)})
