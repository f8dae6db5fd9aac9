"""Upload of a saved state: a snapshot, those that its memory lies on, their layers and their base (docs/design/moves.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes.check_snapshot import check_intact
from wrenn.agent.sandboxes.journal import Record
from wrenn.agent.sandboxes.launch import Launch
from wrenn.agent.sandboxes.transfers import Progress, StateStore
from wrenn.base.errors import NotFound
from wrenn.base.faults import fault_point
from wrenn.base.ids import ImageId
from wrenn.base.undo import Undo
from wrenn.linux.files import remove_tree, translated
from wrenn.linux.threads import run_to_end
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedBase, DamagedSnapshot
from wrenn.storage.objects import BASE, LAYERS, SNAPSHOTS, StateReader, StateTable, StoredBase, StoredFile
from wrenn.storage.snapshots import Manifest, Snapshot
from wrenn.vm import Driver


@dataclass(frozen=True, slots=True)
class SavedState:
    """A state to be uploaded: that of a paused sandbox, or a snapshot that sandboxes are created from.

    Attributes:
        held, disk_mb, origin_layers, versions: as in `StateTable`.
    """

    snapshot_id: str
    held: bool
    disk_mb: int
    origin_layers: tuple[str, ...]
    versions: Mapping[str, str]

    @classmethod
    def of_paused(cls, record: Record) -> SavedState:
        """Return the state of a paused sandbox."""
        return cls(record.snapshot, record.held, record.disk_mb, record.origin_layers, record.metadata)

    @classmethod
    def of_snapshot(cls, manifest: Manifest) -> SavedState:
        """Return the state that is a snapshot; the processes of its guest were frozen, or it would not have been taken."""
        return cls(manifest.snapshot_id, True, manifest.disk_mb, (), manifest.versions)  # noqa: FBT003


@dataclass(frozen=True, slots=True)
class ExportState:
    """Uploads saved states. `store` returns the connection to the store."""

    layout: Layout
    driver: Driver
    launch: Launch
    store: Callable[[], StateStore]

    async def run(self, state: SavedState, image_id: ImageId, scratch: Path, progress: Progress) -> int:
        """Bring a saved state into the store as this image; returns how many bytes were sent. May be repeated.

        `scratch` is a folder for files that are made only for the upload; it is made anew, and removed at the end.

        Raises:
            DamagedSnapshot, NotFound: what was saved is not whole. TooLarge: of too many files. StorageFull: host or store.
            Unavailable, DeadlineExceeded: store or control plane did not answer for a while.
        """
        store = self.store()
        await run_to_end(partial(check_intact, self.layout, self.driver, state.snapshot_id))
        async with Undo() as undo:
            remove_tree(scratch)
            try:
                scratch.mkdir(mode=0o700)
            except OSError as error:
                raise translated(error, doing="create a folder") from error
            undo.push("remove scratch files", lambda: asyncio.to_thread(remove_tree, scratch))
            chain = self._chain(state.snapshot_id)
            paths = await self._paths(chain, scratch)
            table = self._table(state, chain, paths)
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

    def _table(self, state: SavedState, chain: list[Snapshot], paths: dict[str, Path]) -> StateTable:
        snapshot = chain[0]
        base = snapshot.manifest.base
        try:
            files = [StoredFile(name, path.stat().st_size) for name, path in paths.items()]
        except FileNotFoundError as error:
            raise NotFound("A file of the sandbox is missing.") from error
        return StateTable(
            token=self.launch.token_of(snapshot),
            held=state.held,
            disk_mb=state.disk_mb,
            origin_layers=state.origin_layers,
            versions=state.versions,
            snapshots=[each.manifest for each in chain],
            base=StoredBase(base, self.driver.bases.facts_of(base), snapshot.manifest.base_digest),
            files=files,
        )
