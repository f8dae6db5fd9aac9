"""Adoption of a paused sandbox of another host: its saved state is fetched from the store (docs/design/moves.md).

The sandbox is STARTING until everything is there, checked and flushed; then it is PAUSED, in one write of the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes import journal
from wrenn.agent.sandboxes.check_snapshot import require_same_platform
from wrenn.agent.sandboxes.fetch_state import FetchState, HoldGarbage, read_table
from wrenn.agent.sandboxes.journal import NetworkSettings, Record, SandboxSpec, State
from wrenn.agent.sandboxes.launch import Save
from wrenn.agent.sandboxes.transfers import INCOMING, Progress, StateStore
from wrenn.base.clock import Clock
from wrenn.base.errors import InvalidRequest
from wrenn.base.faults import fault_point
from wrenn.base.ids import ImageId
from wrenn.base.undo import Undo
from wrenn.linux.files import remove_tree, translated
from wrenn.linux.threads import run_to_end
from wrenn.protocol.api import DEFAULT_DISK_SIZE_MB
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.objects import StateTable
from wrenn.vm import Driver, Shape


@dataclass(frozen=True, slots=True)
class AdoptState:
    """Adopts paused sandboxes of other hosts. `store` returns the connection to the store."""

    layout: Layout
    driver: Driver
    store: Callable[[], StateStore]
    clock: Clock
    fetch: FetchState

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
                table = await read_table(stored)
                self._require_restorable(table, spec)
                # No await until the journal references what the host has already: it could be collected.
                base = self.fetch.base_key(table)
                self.fetch.require_not_taken(base, table.base.digest)
                record = _record(record, table, base)
                save(record)
                incoming = directory / INCOMING
                await self.fetch.fetch(
                    stored, table, base, directory=directory, incoming=incoming, progress=progress
                )
            async with self.fetch.publishing:
                with hold_garbage():
                    await self.fetch.publish(undo, table, base, incoming)
                    await fault_point("agent.adopt.after_files")
                    record = record.with_state(State.PAUSED)
                    save(record)
            await run_to_end(partial(journal.save_durable, directory, record))
            await fault_point("agent.adopt.after_paused")
            undo.keep()
        await asyncio.to_thread(remove_tree, incoming)
        return record

    async def require_adoptable(self, spec: SandboxSpec, image_id: ImageId) -> None:
        """Return if the store has the state of this sandbox as the image, and it can be restored here. Raises as `run`."""
        async with self.store().open(image_id) as stored:
            self._require_restorable(await read_table(stored), spec)

    def _require_restorable(self, table: StateTable, spec: SandboxSpec) -> None:
        manifest = table.snapshot
        if manifest.sandbox_id != str(spec.sandbox_id):
            raise DamagedSnapshot("What the store has is the state of another sandbox.")
        if spec.shape != Shape(manifest.vcpus, manifest.memory_mb):
            raise InvalidRequest(
                f"It can only be restored with {manifest.vcpus} vCPUs and {manifest.memory_mb} MB."
            )
        require_same_platform(manifest, self.driver)


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
