"""Fetches saved states from the store and puts their files in place: bases, layers and snapshots (docs/design/moves.md).

Files that this host has already are not fetched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes.check_snapshot import check_intact
from wrenn.agent.sandboxes.transfers import Progress, StoredState
from wrenn.base.errors import Unavailable
from wrenn.base.faults import fault_point
from wrenn.base.undo import Undo
from wrenn.linux.files import remove_tree, translated
from wrenn.linux.threads import run_to_end
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedBase, DamagedSnapshot
from wrenn.storage.objects import BASE, LAYERS, SNAPSHOTS, StateTable, StateWriter
from wrenn.storage.snapshots import Manifest
from wrenn.vm import Driver, ImageRef

_KEY_LENGTH: Final = 24

HoldGarbage = Callable[[], AbstractContextManager[None]]
"""While its context lasts nothing is collected: files are put in place that nothing references yet."""


async def read_table(stored: StoredState) -> StateTable:
    """Read the table of a stored state.

    Raises:
        DamagedSnapshot, InvalidState: as `StateTable.decode`.
    """
    table = StateTable.decode(await stored.first())
    if table.size_b != stored.size_b:
        raise DamagedSnapshot("What the store has of the sandbox has another size than its table says.")
    return table


@dataclass(frozen=True, slots=True)
class FetchState:
    """Fetches saved states."""

    layout: Layout
    driver: Driver
    publishing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while fetched files are put in place: two fetches may have got the same base, snapshot or layer."""

    async def fetch(
        self,
        stored: StoredState,
        table: StateTable,
        base: str,
        *,
        directory: Path,
        incoming: Path,
        progress: Progress,
    ) -> None:
        """Fetch the files that this host lacks into the folder `incoming`, below `directory`. Files that are there can be collected meanwhile unless something references them.

        Raises:
            StorageFull: no room. DamagedChunk: what was stored is not whole.
        """
        lacking = await run_to_end(partial(self._lacking, table, base))
        paths = _paths(table, lacking, incoming)
        with StateWriter(table, paths) as writer:
            await fault_point("agent.adopt.after_table")
            await stored.write(table.indexes(lacking), writer, directory, progress)
            await run_to_end(writer.sync)
        await fault_point("agent.adopt.after_fetch")

    def base_key(self, table: StateTable) -> str:
        """Return the key that the base has, or will have, on this host.

        Snapshots that lie one on another must name the same base, so one that is here decides.
        """
        for manifest in table.snapshots:
            if (self.layout.snapshots / manifest.snapshot_id).exists():
                found = snapshots.find(self.layout.snapshots, manifest.snapshot_id).manifest
                if replace(found, base=manifest.base) != manifest:
                    raise DamagedSnapshot(f"{manifest.snapshot_id} is another snapshot on this host.")
                return found.base
        # Bases are made anew on each host: the same key usually means another content, and one that was fetched has another key.
        keys = (path.name for path in sorted(self.layout.bases.iterdir()) if not path.name.startswith("."))
        same = (key for key in (table.base.key, *keys) if self._has_base(key, table.base.digest))
        return next(same, table.base.digest[:_KEY_LENGTH])

    def _has_base(self, key: str, digest: str) -> bool:
        try:
            return self.driver.bases.content_digest(key) == digest
        except DamagedBase:
            return False

    def require_not_taken(self, key: str, digest: str) -> None:
        """Return if this host has no base of this key, or the one with this content.

        Raises:
            DamagedSnapshot: it has another one. Other sandboxes may be on that, so it is not replaced.
        """
        try:
            found = self.driver.bases.content_digest(key)
        except DamagedBase:
            return
        if found != digest:
            raise DamagedSnapshot(
                "This host has a base of another content in place of the one that the sandbox needs."
            )

    def _has_snapshot(self, manifest: Manifest) -> bool:
        return (self.layout.snapshots / manifest.snapshot_id).exists()

    def _lacking(self, table: StateTable, base: str) -> set[str]:
        """Return the names of the files that this host does not have yet."""
        layers = set(self.driver.disks.list_ids())
        lacking: set[str] = set()
        if not self._has_base(base, table.base.digest):
            lacking |= {file.name for file in table.files if file.name.startswith(f"{BASE}/")}
        for manifest in table.snapshots:
            if not self._has_snapshot(manifest):
                folder = f"{SNAPSHOTS}/{manifest.snapshot_id}/"
                lacking |= {file.name for file in table.files if file.name.startswith(folder)}
            for seal in manifest.layers:
                if seal.layer_id in layers:
                    self.driver.disks.check(seal)
                else:
                    lacking.add(f"{LAYERS}/{seal.layer_id}")
        return lacking

    async def publish(self, undo: Undo, table: StateTable, base: str, incoming: Path) -> None:
        """Put what was fetched in its place, check it all, and flush it. The caller has the lock `publishing` and holds the garbage collection.

        Raises:
            Unavailable: a file that was not fetched, as it was here, is gone; the caller repeats the fetch.
        """
        driver, root = self.driver, self.layout.snapshots
        if not self._has_base(base, table.base.digest):
            self.require_not_taken(base, table.base.digest)
            _require_fetched(incoming / BASE)
            driver.memory.forget(ImageRef(base))
            try:
                await driver.bases.restore(incoming / BASE, key=base, facts=table.base.facts)
            except DamagedBase as error:
                raise DamagedSnapshot("The base of the sandbox is not whole in the store.") from error
            if not self._has_base(base, table.base.digest):
                raise DamagedSnapshot("The base of the sandbox has other content in the store than it had.")
        await fault_point("agent.adopt.after_base")
        here = set(driver.disks.list_ids())
        seals = {seal.layer_id: seal for manifest in table.snapshots for seal in manifest.layers}
        for layer in seals.keys() - here:
            _require_fetched(incoming / LAYERS / layer)
            await driver.disks.restore(layer, incoming / LAYERS / layer)
        await fault_point("agent.adopt.after_layers")
        for manifest in reversed(table.snapshots):
            if self._has_snapshot(manifest):
                continue
            fetched = incoming / SNAPSHOTS / manifest.snapshot_id
            _require_fetched(fetched)
            draft = snapshots.draft_path(root, manifest.snapshot_id)
            remove_tree(draft)
            fetched.rename(draft)
            undo.push("remove draft", lambda draft=draft: asyncio.to_thread(remove_tree, draft))
            if manifest is table.snapshot:
                snapshots.write_guest_token(draft, table.token)
            snapshots.publish(draft, root, replace(manifest, base=base))
        await run_to_end(partial(check_intact, self.layout, driver, table.snapshot.snapshot_id))
        await run_to_end(partial(driver.disks.flush, sorted(seals)))
        for manifest in table.snapshots:
            await run_to_end(partial(snapshots.flush, snapshots.find(root, manifest.snapshot_id)))


def _paths(table: StateTable, names: set[str], incoming: Path) -> dict[str, Path]:
    """Return where these files are written, and create their folders.

    Raises:
        StorageFull: no room.
    """
    paths = {file.name: incoming / file.name for file in table.files if file.name in names}
    try:
        incoming.mkdir(mode=0o700)
        for path in paths.values():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise translated(error, doing="create a folder") from error
    return paths


def _require_fetched(path: Path) -> None:
    """Raise Unavailable if this was not fetched, because the host had it then."""
    with suppress(OSError):
        if path.exists():
            return
    raise Unavailable("A file of the sandbox was removed from this host meanwhile. Try again.")
