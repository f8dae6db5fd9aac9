"""Takes a snapshot of a sandbox: a running one is suspended for a moment, of a paused one the files are linked.

The guest stops from the freeze of its processes until their thaw. Order and failure table: docs/design/snapshots.md.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes.check_snapshot import check_intact
from wrenn.agent.sandboxes.journal import Record
from wrenn.agent.sandboxes.launch import Save
from wrenn.agent.sandboxes.pause import SETTLE_TIMEOUT_S, freeze_guest, thaw_guest, with_actual_layers
from wrenn.agent.sandboxes.running import RunningSandbox
from wrenn.agent.sandboxes.save_vm import Saver
from wrenn.base.clock import Clock
from wrenn.base.errors import InvalidState, StorageFull, Unavailable
from wrenn.base.faults import fault_point
from wrenn.base.undo import Undo
from wrenn.base.units import MIB
from wrenn.guest import settle_disk
from wrenn.linux.files import remove_tree
from wrenn.linux.threads import run_to_end
from wrenn.storage import snapshots
from wrenn.storage.layers import new_layer_id
from wrenn.vm import DiskRef, Driver

_log = logging.getLogger(__name__)

_DEPTH_LIMIT: Final = 48
"""Layers of a running sandbox: each snapshot adds one, and merging them takes time."""


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """Takes snapshots of sandboxes."""

    layout: Layout
    driver: Driver
    saver: Saver
    clock: Clock

    async def of_running(
        self,
        record: Record,
        running: RunningSandbox,
        snapshot_id: str,
        save: Save,
        *,
        keep_memory: bool = True,
    ) -> Record:
        """Take a snapshot of a running sandbox, which keeps running. After a failure or cancellation there is none.

        Returns its record with the new layer that it writes to. Without `keep_memory` only the disk is saved, and copies boot.

        Raises:
            StorageFull: no room. AgentFailure: its VM ended. InvalidState: too many snapshots without a pause. Unavailable: its
            processes did not stop, or without `keep_memory` its guest did not write its disk.
        """
        if len(record.layers) >= _DEPTH_LIMIT:
            raise InvalidState(
                f"{record.spec.sandbox_id} has had {_DEPTH_LIMIT} snapshots since its last pause: wait a little, or pause and resume it."
            )
        record = await with_actual_layers(record, running)
        frozen, layer_id = record.layers, new_layer_id()
        disks = self.driver.disks
        async with Undo() as undo:
            record = replace(record, next_layer=layer_id)
            save(record)

            async def drop_layer() -> None:
                # The VM may write to it by now, whatever became of the answer. While that is not known it stays, and stays
                # named: the next verb asks again.
                now = await with_actual_layers(record, running)
                if layer_id not in now.layers:
                    await disks.remove(layer_id)
                with suppress(StorageFull):
                    save(replace(now, next_layer=""))

            undo.push("drop layer", running.unless_being_removed(drop_layer))
            size_b = record.disk_mb * MIB or disks.image_size_b(record.base)
            await disks.create(layer_id, DiskRef(frozen, record.base), size_b=size_b)
            draft = self.saver.make_draft(snapshot_id)
            undo.push("remove draft", lambda: asyncio.to_thread(remove_tree, draft))
            await fault_point("agent.snapshot.after_draft")

            async with self.saver.turns, Undo() as continue_guest:
                stopped = time.monotonic()
                continue_guest.push(
                    "thaw the guest's processes", running.unless_being_removed(partial(thaw_guest, running))
                )
                is_frozen = await freeze_guest(self.driver, running, record)
                if not keep_memory:
                    await settle_disk(running.guest, timeout_s=SETTLE_TIMEOUT_S)
                    await fault_point("agent.snapshot.after_settle")
                elif not is_frozen:
                    raise Unavailable(
                        f"The programs in {record.spec.sandbox_id} could not be stopped for a snapshot. Try again."
                    )
                await fault_point("agent.snapshot.after_hold")
                continue_guest.push("unsuspend the VM", running.unsuspend_vm)
                await running.vm.suspend()
                await fault_point("agent.snapshot.after_freeze")
                saved = await self.saver.save(
                    running.vm, record, draft, step="agent.snapshot", keep_memory=keep_memory
                )
                await running.vm.switch_layer(layer_id)
                record = replace(record, layers=(layer_id, *frozen), next_layer="")
                with suppress(StorageFull):  # recovery asks the VM what it writes to
                    save(record)
                await fault_point("agent.snapshot.after_overlay")
            stopped_ms = (time.monotonic() - stopped) * 1000
            await fault_point("agent.snapshot.after_thaw")
            snapshots.pin(draft)
            await self.saver.publish(saved, record, snapshot_id, frozen)
            undo.keep()
        await fault_point("agent.snapshot.after_manifest")
        _log.info(
            "snapshot taken",
            extra={
                "sandbox_id": str(record.spec.sandbox_id),
                "snapshot_id": snapshot_id,
                "stopped_ms": round(stopped_ms),
            },
        )
        return record

    async def of_paused(self, record: Record, snapshot_id: str) -> None:
        """Take a snapshot of a paused sandbox by linking its files under the new id. It has memory if the pause kept that.

        Raises:
            DamagedSnapshot, NotFound: it is not whole. StorageFull: no room.
        """
        if not record.held:
            raise InvalidState(
                f"{record.spec.sandbox_id} was paused while its programs could not be stopped: resume it and try again."
            )
        found = await run_to_end(partial(check_intact, self.layout, self.driver, record.snapshot))
        async with Undo() as undo:
            draft = self.saver.make_draft(snapshot_id)
            undo.push("remove draft", lambda: asyncio.to_thread(remove_tree, draft))
            await run_to_end(partial(snapshots.link_files, found.directory, draft))
            await fault_point("agent.snapshot.after_draft")
            snapshots.pin(draft)
            manifest = replace(
                found.manifest, snapshot_id=snapshot_id, created_at=self.clock.now().timestamp()
            )
            snapshots.publish(draft, self.layout.snapshots, manifest)
            undo.keep()
        await fault_point("agent.snapshot.after_manifest")
