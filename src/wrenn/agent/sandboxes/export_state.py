"""Upload of a paused sandbox: its snapshot, those that its memory lies on, their layers and their base (docs/design/moves.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes.check_snapshot import check_intact
from wrenn.agent.sandboxes.journal import Record
from wrenn.agent.sandboxes.launch import Launch
from wrenn.agent.sandboxes.transfers import OUTGOING, Progress, StateStore
from wrenn.base.errors import NotFound
from wrenn.base.faults import fault_point
from wrenn.base.ids import ImageId
from wrenn.base.undo import Undo
from wrenn.linux.files import remove_tree, translated
from wrenn.linux.threads import run_to_end
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedBase, DamagedSnapshot
from wrenn.storage.objects import BASE, LAYERS, SNAPSHOTS, StateReader, StateTable, StoredBase, StoredFile
from wrenn.storage.snapshots import Snapshot
from wrenn.vm import Driver


@dataclass(frozen=True, slots=True)
class ExportState:
    """Uploads what pauses saved. `store` returns the connection to the store."""

    layout: Layout
    driver: Driver
    launch: Launch
    store: Callable[[], StateStore]

    async def run(self, record: Record, image_id: ImageId, progress: Progress) -> int:
        """Bring a paused sandbox into the store as this image; returns how many bytes were sent. May be repeated.

        Raises:
            DamagedSnapshot, NotFound: what was saved is not whole. TooLarge: of too many files. StorageFull: host or store.
            Unavailable, DeadlineExceeded: store or control plane did not answer for a while.
        """
        store = self.store()
        await run_to_end(partial(check_intact, self.layout, self.driver, record.snapshot))
        scratch = self.layout.sandbox(record.spec.sandbox_id) / OUTGOING
        async with Undo() as undo:
            remove_tree(scratch)
            try:
                scratch.mkdir(mode=0o700)
            except OSError as error:
                raise translated(error, doing="create a folder") from error
            undo.push("remove scratch files", lambda: asyncio.to_thread(remove_tree, scratch))
            chain = self._chain(record.snapshot)
            paths = await self._paths(chain, scratch)
            table = self._table(record, chain, paths)
            with StateReader(table, paths) as reader:
                await fault_point("agent.store_state.after_table")
                sent_b = await store.upload_chunks(image_id, reader, progress)
        # The undo step runs on success too.
        await fault_point("agent.store_state.after_upload")
        return sent_b

    def _chain(self, snapshot_id: str) -> list[Snapshot]:
        chain: list[Snapshot] = []
        while snapshot_id:
            chain.append(snapshots.find(self.layout.snapshots, snapshot_id))
            snapshot_id = chain[-1].manifest.parent
        return chain

    async def _paths(self, chain: list[Snapshot], scratch: Path) -> dict[str, Path]:
        """Return the files to store, by their names in the table."""
        paths: dict[str, Path] = {}
        try:
            base = await self.driver.bases.export(chain[0].manifest.base, scratch)
        except DamagedBase as error:
            raise DamagedSnapshot("The base of the sandbox is missing or damaged.") from error
        paths |= {f"{BASE}/{name}": path for name, path in sorted(base.items())}
        for snapshot in reversed(chain):
            for path in snapshots.files_to_store(snapshot.directory):
                paths[f"{SNAPSHOTS}/{snapshot.manifest.snapshot_id}/{path.name}"] = path
        for snapshot in reversed(chain):
            for layer in reversed(snapshot.manifest.layer_ids):
                if f"{LAYERS}/{layer}" not in paths:
                    paths[f"{LAYERS}/{layer}"] = await self.driver.disks.export(layer, scratch)
        return paths

    def _table(self, record: Record, chain: list[Snapshot], paths: dict[str, Path]) -> StateTable:
        snapshot = chain[0]
        base = snapshot.manifest.base
        try:
            files = [StoredFile(name, path.stat().st_size) for name, path in paths.items()]
        except FileNotFoundError as error:
            raise NotFound("A file of the sandbox is missing.") from error
        return StateTable(
            token=self.launch.token_of(snapshot),
            held=record.held,
            disk_mb=record.disk_mb,
            origin_layers=record.origin_layers,
            versions=record.metadata,
            snapshots=[each.manifest for each in chain],
            base=StoredBase(base, self.driver.bases.facts_of(base), snapshot.manifest.base_digest),
            files=files,
        )
