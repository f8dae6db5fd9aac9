"""Flushes what pauses have saved to the disk, in the background, so that it survives a power cut.

Which snapshots a journal names meanwhile, and which may be removed: docs/design/snapshots.md, "Durability".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes import journal
from wrenn.agent.sandboxes.entry import Entry
from wrenn.agent.sandboxes.journal import Record
from wrenn.base.errors import AgentFailure, NotFound, StorageFull, Unavailable
from wrenn.base.faults import fault_point
from wrenn.base.tasks import OwnedTasks
from wrenn.linux.threads import start_in
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedSnapshot
from wrenn.vm import DiskChain

_DELAY_S: Final = 1.0
"""The flush of a new snapshot begins this late, so that it does not delay the commit of "paused" on the same disk."""
_THREADS: Final = 3
"""Flushes of one disk do not end sooner if there are more at a time. A flush of some GB takes minutes on a slow disk: those in the background
have threads of their own, and neither journals nor flushes that somebody waits for wait for them."""
_WAIT_S: Final = 60.0
"""How long a pause waits for the one before; less than the control plane waits for a pause."""


class Durability:
    """The flushes of a host's snapshots and journals.

    `save` writes an entry's record to its journal; `wake_garbage` is called when a snapshot may not be needed any more.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        disks: DiskChain,
        save: Callable[[Entry, Record], None],
        wake_garbage: Callable[[], None],
    ) -> None:
        self._layout = layout
        self._disks = disks
        self._save = save
        self._wake_garbage = wake_garbage
        self._tasks = OwnedTasks()
        self._background = ThreadPoolExecutor(_THREADS, thread_name_prefix="wrenn-flush")
        self._urgent = ThreadPoolExecutor(_THREADS, thread_name_prefix="wrenn-urgent-flush")
        self._journals = ThreadPoolExecutor(_THREADS, thread_name_prefix="wrenn-journal")

    async def close(self) -> None:
        """Cancel what is under way; the next agent begins again."""
        await self._tasks.close()
        for pool in (self._background, self._urgent, self._journals):
            pool.shutdown(wait=False, cancel_futures=True)

    def begin(self, entry: Entry) -> None:
        """Make the last pause of a sandbox durable, soon."""
        snapshot_id = entry.record.snapshot
        self._tasks.start(f"flush {snapshot_id}", self._make_durable(entry, snapshot_id))

    async def _make_durable(self, entry: Entry, snapshot_id: str) -> None:
        await asyncio.sleep(_DELAY_S)
        # After a failure of the disk: again at the next pause, and at the agent's next start. Until then the snapshot before is kept.
        if await self.flush(snapshot_id) and await self._write_durable_journal(entry, snapshot_id):
            async with entry.lock:  # an operation may be changing the record
                self._forget_former(entry, snapshot_id)
        self._wake_garbage()

    async def ensure(self, entry: Entry) -> None:
        """Return once the last pause of a sandbox is durable: the next one replaces the pause before it. The caller holds its lock.

        If files of the last pause are damaged or missing, the record names the pause before it instead.

        Raises:
            AgentFailure: the disk does not take it. Unavailable: it takes too long.
        """
        record = entry.record
        if record.is_flushed:
            return
        try:
            async with asyncio.timeout(_WAIT_S):
                is_durable = await self.flush(record.snapshot, is_urgent=True)
        except TimeoutError as error:
            raise Unavailable(
                f"The last pause of {entry.sandbox_id} is still being written to the host's disk. It keeps running."
            ) from error
        except OSError as error:
            raise AgentFailure(
                f"The last pause of {entry.sandbox_id} could not be written to the host's disk. It keeps running."
            ) from error
        if not is_durable:
            intact = replace(record, snapshot=record.former_snapshot, former_snapshot="", unflushed_boot="")
            self._save(entry, intact)
        elif await self._write_durable_journal(entry, record.snapshot):
            self._forget_former(entry, record.snapshot)

    async def flush(self, snapshot_id: str, *, is_urgent: bool = False) -> bool:
        """Flush a snapshot and its layers. Return False if it is gone or damaged, so that there is nothing to make durable.

        With `is_urgent` somebody waits for it, and it does not wait for flushes in the background.

        Raises:
            OSError: the disk did not take it.
        """
        await fault_point("agent.flush.before_files")
        try:
            snapshot = snapshots.find(self._layout.snapshots, snapshot_id)
            # The snapshot last, because it refers to the layers.
            pool = self._urgent if is_urgent else self._background
            await start_in(pool, partial(self._disks.flush, snapshot.manifest.layer_ids))
            await start_in(pool, partial(snapshots.flush, snapshot))
        except (FileNotFoundError, NotFound, DamagedSnapshot):
            return False
        return True

    async def save_journal(self, entry: Entry) -> None:
        """Write the journal of a paused sandbox so that it survives a power cut.

        Raises:
            StorageFull: the disk is full.
        """
        async with entry.durable_lock:
            await self._write(entry, entry.record)

    async def _write_durable_journal(self, entry: Entry, snapshot_id: str) -> bool:
        """Write that this snapshot is durable. Return False if the sandbox has another one or is being removed, or the disk is full."""
        async with entry.durable_lock:
            if entry.removing is not None or entry.record.snapshot != snapshot_id:
                return False
            try:
                await self._write(entry, _durable(entry.record))
            except (StorageFull, FileNotFoundError):
                return False
            await fault_point("agent.flush.after_journal")
            return True

    async def _write(self, entry: Entry, record: Record) -> None:
        directory = self._layout.sandbox(entry.sandbox_id)
        await start_in(self._journals, partial(journal.save_durable, directory, record))

    def _forget_former(self, entry: Entry, snapshot_id: str) -> None:
        is_last = entry.removing is None and entry.record.snapshot == snapshot_id
        if is_last and not entry.record.is_flushed:
            with suppress(StorageFull):  # the durable journal says it, and `load` reads that too
                self._save(entry, _durable(entry.record))


def _durable(record: Record) -> Record:
    return replace(record, former_snapshot="", unflushed_boot="")
