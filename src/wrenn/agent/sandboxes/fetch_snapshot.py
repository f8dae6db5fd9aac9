"""Fetches a snapshot of another host from the store, so that sandboxes can be created from it here (docs/design/moves.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes.check_snapshot import require_same_platform
from wrenn.agent.sandboxes.fetch_state import FetchState, HoldGarbage, read_table
from wrenn.agent.sandboxes.transfers import StateStore
from wrenn.base.faults import fault_point
from wrenn.base.ids import ImageId, SnapshotId
from wrenn.base.undo import Undo
from wrenn.linux.files import remove_tree
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedSnapshot
from wrenn.vm import Driver


@dataclass(frozen=True, slots=True)
class FetchSnapshot:
    """Fetches snapshots. `store` returns the connection to the store."""

    layout: Layout
    driver: Driver
    store: Callable[[], StateStore]
    fetch: FetchState

    async def run(self, snapshot_id: SnapshotId, image_id: ImageId, *, hold_garbage: HoldGarbage) -> None:
        """Fetch a snapshot, which is this image in the store; it is pinned then. After a failure or cancellation nothing of it remains.

        What was fetched lies in a draft until then, which the next agent removes if this one is killed.

        Raises:
            NotFound: the store has no such image for this host. InvalidState: it cannot be restored here; the message says why.
            DamagedSnapshot, DamagedChunk: what was stored is not whole. StorageFull: no room.
            Unavailable, DeadlineExceeded: store or control plane did not answer for a while, or files that were here are gone.
        """
        root = self.layout.snapshots
        incoming = snapshots.draft_path(root, f"incoming-{snapshot_id}")
        async with Undo() as undo:
            await asyncio.to_thread(remove_tree, incoming)
            undo.push("remove what was fetched", lambda: asyncio.to_thread(remove_tree, incoming))
            async with self.store().open(image_id) as stored:
                table = await read_table(stored)
                if table.snapshot.snapshot_id != str(snapshot_id) or not table.held:
                    raise DamagedSnapshot("What the store has is another snapshot.")
                require_same_platform(table.snapshot, self.driver)
                base = self.fetch.base_key(table)
                self.fetch.require_not_taken(base, table.base.digest)
                await self.fetch.fetch(
                    stored,
                    table,
                    base,
                    directory=root,
                    incoming=incoming,
                    progress=lambda _done, _total: None,
                )
            async with self.fetch.publishing:
                with hold_garbage():
                    await self.fetch.publish(undo, table, base, incoming)
                    await fault_point("agent.fetch_snapshot.after_files")
                    await asyncio.to_thread(snapshots.adopt, root, str(snapshot_id), table.token)
        # The undo step runs on success too.
        await fault_point("agent.fetch_snapshot.after_pin")
