"""Adoption of a paused sandbox of another host: its saved state is fetched from the store (docs/design/moves.md).

The sandbox is STARTING until everything is there, checked and flushed; then it is PAUSED, in one write of the journal.
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
from wrenn.agent.sandboxes import journal
from wrenn.agent.sandboxes.check_snapshot import check_intact, require_same_platform
from wrenn.agent.sandboxes.journal import NetworkSettings, Record, SandboxSpec, State
from wrenn.agent.sandboxes.launch import Save
from wrenn.agent.sandboxes.transfers import INCOMING, Progress, StateStore, StoredState
from wrenn.base.clock import Clock
from wrenn.base.errors import InvalidRequest, Unavailable
from wrenn.base.faults import fault_point
from wrenn.base.ids import ImageId
from wrenn.base.undo import Undo
from wrenn.linux.files import remove_tree, translated
from wrenn.linux.threads import run_to_end
from wrenn.protocol.api import DEFAULT_DISK_SIZE_MB
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedBase, DamagedSnapshot
from wrenn.storage.objects import BASE, LAYERS, SNAPSHOTS, StateTable, StateWriter
from wrenn.storage.snapshots import Manifest
from wrenn.vm import Driver, ImageRef, Shape

_KEY_LENGTH: Final = 24

HoldGarbage = Callable[[], AbstractContextManager[None]]
"""While its context lasts nothing is collected: files are put in place that nothing references yet."""


@dataclass(frozen=True, slots=True)
class AdoptState:
    """Adopts paused sandboxes of other hosts. `store` returns the connection to the store."""

    layout: Layout
    driver: Driver
    store: Callable[[], StateStore]
    clock: Clock
    _publishing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(
        self,
        spec: SandboxSpec,
        network: NetworkSettings,
        image_id: ImageId,
        *,
        save: Save,
        progress: Progress,
        hold_garbage: HoldGarbage,
    ) -> Record:
        """Adopt the sandbox; it is paused then. After a failure or cancellation nothing of it remains.

        Raises:
            NotFound: the store has no such image for this host. InvalidState: it cannot be restored here; the message says why.
            DamagedSnapshot, DamagedChunk: what was stored is not whole. StorageFull: no room.
            Unavailable, DeadlineExceeded: store or control plane did not answer for a while.
        """
        store = self.store()
        directory = self.layout.sandbox(spec.sandbox_id)
        async with Undo() as undo:
            try:
                directory.mkdir(mode=0o700)
            except OSError as error:
                raise translated(error, doing="create the sandbox's folder") from error
            undo.push("remove files", lambda: asyncio.to_thread(remove_tree, directory))
            started_at = self.clock.now().timestamp()
            record = Record(spec, State.STARTING, started_at=started_at, network=network)
            save(record)
            await fault_point("agent.adopt.after_journal")
            async with store.open(image_id) as stored:
                table = await _table(stored)
                self._require_restorable(table, spec)
                # No await until the journal references what the host has already: it could be collected.
                base = self._base_key(table)
                self._require_not_taken(base, table.base.digest)
                record = _record(record, table, base)
                save(record)
                lacking = await run_to_end(partial(self._lacking, table, base))
                incoming = directory / INCOMING
                paths = _paths(table, lacking, incoming)
                with StateWriter(table, paths) as writer:
                    await fault_point("agent.adopt.after_table")
                    await stored.write(table.indexes(lacking), writer, directory, progress)
                    await run_to_end(writer.sync)
            await fault_point("agent.adopt.after_fetch")
            # Two adoptions may have fetched the same base, snapshot or layer.
            async with self._publishing:
                with hold_garbage():
                    await self._publish(undo, table, base, incoming)
                    await fault_point("agent.adopt.after_files")
                    record = record.with_state(State.PAUSED)
                    save(record)
            await asyncio.to_thread(journal.flush, directory)
            await fault_point("agent.adopt.after_paused")
            undo.keep()
        await asyncio.to_thread(remove_tree, incoming)
        return record

    async def require_adoptable(self, spec: SandboxSpec, image_id: ImageId) -> None:
        """Return if the store has the state of this sandbox as the image, and it can be restored here. Raises as `run`."""
        async with self.store().open(image_id) as stored:
            self._require_restorable(await _table(stored), spec)

    def _require_restorable(self, table: StateTable, spec: SandboxSpec) -> None:
        manifest = table.snapshot
        if manifest.sandbox_id != str(spec.sandbox_id):
            raise DamagedSnapshot("What the store has is the state of another sandbox.")
        if spec.shape != Shape(manifest.vcpus, manifest.memory_mb):
            raise InvalidRequest(
                f"It can only be restored with {manifest.vcpus} vCPUs and {manifest.memory_mb} MB."
            )
        require_same_platform(manifest, self.driver)

    def _base_key(self, table: StateTable) -> str:
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

    def _require_not_taken(self, key: str, digest: str) -> None:
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

    async def _publish(self, undo: Undo, table: StateTable, base: str, incoming: Path) -> None:
        """Put what was fetched in its place, check it all, and flush it."""
        driver, root = self.driver, self.layout.snapshots
        if not self._has_base(base, table.base.digest):
            self._require_not_taken(base, table.base.digest)
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


async def _table(stored: StoredState) -> StateTable:
    table = StateTable.decode(await stored.first())
    if table.size_b != stored.size_b:
        raise DamagedSnapshot("What the store has of the sandbox has another size than its table says.")
    return table


def _record(record: Record, table: StateTable, base: str) -> Record:
    manifest = table.snapshot
    # A disk that was made larger since it was stored gets its size at the next resume.
    asked_mb = record.spec.disk_mb if record.spec.disk_mb != DEFAULT_DISK_SIZE_MB else 0
    return replace(
        record,
        base=base,
        parent=manifest.parent,
        layers=manifest.layer_ids,
        origin_layers=table.origin_layers,
        snapshot=manifest.snapshot_id,
        held=table.held,
        disk_mb=max(table.disk_mb, asked_mb if table.disk_mb else 0),
        metadata=table.versions,
        platform=manifest.platform,
    )


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
