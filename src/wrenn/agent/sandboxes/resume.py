"""Resume: check the snapshot, write the journal, start a VM with the saved memory, or boot it from the saved disk.

Until the journal says RUNNING the snapshot is untouched, and every failure leaves the sandbox paused.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes.check_snapshot import check_restorable
from wrenn.agent.sandboxes.journal import Record, State
from wrenn.agent.sandboxes.launch import Launch, Origin, Save
from wrenn.agent.sandboxes.running import RunningSandbox
from wrenn.base.clock import Clock
from wrenn.base.errors import StorageFull
from wrenn.base.faults import fault_point
from wrenn.base.steps import step_done
from wrenn.base.undo import Undo
from wrenn.base.units import MIB
from wrenn.linux.threads import run_to_end
from wrenn.storage.layers import new_layer_id
from wrenn.storage.snapshots import Manifest
from wrenn.vm import Driver

_COPY_LIMIT_B: Final = 16 * MIB
"""A top layer up to this size is copied instead of stacked on: 10 ms, and pausing idle sandboxes adds no layer."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Resumes paused sandboxes."""

    layout: Layout
    driver: Driver
    launch: Launch
    clock: Clock

    async def run(
        self, record: Record, save: Save, *, keep_memory: bool = True
    ) -> tuple[Record, RunningSandbox]:
        """Resume a paused sandbox. After a failure or cancellation it is still paused.

        It boots from its disk if its memory was not saved, or without `keep_memory`. What it had written and not yet flushed to its disk
        is lost then, as after a power cut, unless it was paused without its memory.

        Raises:
            DamagedSnapshot: what was saved is not whole. InvalidState: it needs another VMM. NoCapacity, StorageFull.
            AgentFailure, Unavailable: it did not start.
        """
        before = record
        snapshot = await run_to_end(partial(check_restorable, self.layout, self.driver, record.snapshot))
        manifest = snapshot.manifest
        disk_mb = manifest.disk_mb or self.driver.disks.image_size_b(manifest.base) // MIB
        copy_of, frozen = self._disk(manifest, disk_mb)
        boots = not (keep_memory and manifest.has_memory)
        step_done("check")
        async with Undo() as undo:

            async def restore_journal() -> None:
                with suppress(StorageFull):  # the journal then says RESUMING, and recovery takes it back
                    save(before)

            undo.push("restore the journal", restore_journal)
            record = replace(
                record,
                started_at=self.clock.now().timestamp(),
                base=manifest.base,
                parent="" if boots else manifest.parent,
                layers=(new_layer_id(), *frozen),
            ).with_state(State.RESUMING)
            save(record)
            await fault_point("agent.resume.after_journal")
            origin = Origin(
                token=None if boots else self.launch.token_of(snapshot),
                disk_mb=disk_mb,
                copy_of=copy_of,
                saved="" if boots else manifest.snapshot_id,
            )
            record, running = await self.launch.run(undo, record, origin, save, step="agent.resume")
            record = record.with_state(State.RUNNING)
            save(record)
            await fault_point("agent.resume.after_running")
            undo.keep()
            return record, running

    def _disk(self, manifest: Manifest, disk_mb: int) -> tuple[str, tuple[str, ...]]:
        """Return the layer that the new one starts as a copy of (empty for none), and the frozen layers below."""
        top, *below = manifest.layer_ids
        disks = self.driver.disks
        # A layer of a smaller disk cannot become a larger one: the sandbox was promised more than it had when it was saved.
        if disks.allocated_b(top) <= _COPY_LIMIT_B and disks.size_b(top) >= disk_mb * MIB:
            return top, tuple(below)
        return "", manifest.layer_ids
