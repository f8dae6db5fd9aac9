"""Pause: drain calls, freeze the guest's processes, suspend the VM, save it, kill the VMM, release the network.

Without memory the guest writes its disk between the freeze and the suspension, and nothing but the disk is saved.

A failure before the manifest is published leaves the VM running; after that the sandbox is paused in any case.
Order and failure table: docs/design/snapshots.md.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from wrenn.agent.confinement import Confiner
from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes.journal import Record, State
from wrenn.agent.sandboxes.launch import Save
from wrenn.agent.sandboxes.running import RunningSandbox
from wrenn.agent.sandboxes.save_vm import Saver
from wrenn.base.errors import AgentFailure, NotFound, StorageFull, WrennError
from wrenn.base.faults import fault_point
from wrenn.base.ids import SandboxId, SnapshotId
from wrenn.base.steps import step_done
from wrenn.base.undo import Undo
from wrenn.guest import freeze_processes, settle_disk, thaw_processes
from wrenn.linux.boot import boot_id
from wrenn.linux.files import remove_tree
from wrenn.network import SlotPool
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedSnapshot
from wrenn.vm import Driver

_log = logging.getLogger(__name__)

GRACE_S: Final = 2.0
"""How long a pause waits for calls that are under way."""
FREEZE_TIMEOUT_S: Final = 2.0
SETTLE_TIMEOUT_S: Final = 30.0
"""How long a guest may take to write to its disk what it has in memory."""


async def freeze_guest(driver: Driver, running: RunningSandbox, record: Record) -> bool:
    """Freeze the guest's processes. Return False if some still run and would continue in clones under the old identity."""
    if not driver.capabilities.keeps_memory:
        return True  # processes do not continue in clones
    running.guest_frozen = True
    reason = "some still run"
    try:
        if await freeze_processes(running.guest, timeout_s=FREEZE_TIMEOUT_S):
            return True
    except WrennError as error:
        reason = error.message
    fields = {"sandbox_id": str(record.spec.sandbox_id), "reason": reason}
    _log.warning("processes of the guest are not frozen", extra=fields)
    return False


async def thaw_guest(running: RunningSandbox) -> None:
    """Thaw the guest's processes. After a failure the registry retries for as long as the sandbox runs."""
    await thaw_processes(running.guest, timeout_s=FREEZE_TIMEOUT_S)
    running.guest_frozen = False


async def with_actual_layers(record: Record, running: RunningSandbox) -> Record:
    """Return the record with the layers that the VM really uses: a layer switch may have been interrupted.

    Raises:
        AgentFailure: the VMM does not say, or says what cannot be; then nothing of it may be saved.
    """
    written = await running.vm.written_layer()
    if record.next_layer and written == record.next_layer:
        return replace(record, layers=(written, *record.layers), next_layer="")
    if written != record.layers[0]:
        raise AgentFailure(
            "The virtual machine writes to another disk than it was given.", context={"layer": written}
        )
    return replace(record, next_layer="")


@dataclass(frozen=True, slots=True)
class Pause:
    """Pauses sandboxes."""

    layout: Layout
    slots: SlotPool
    confiner: Confiner
    saver: Saver

    async def run(
        self,
        record: Record,
        running: RunningSandbox,
        save: Save,
        *,
        keep_memory: bool = True,
        reason: str = "",
        cause: str = "",
    ) -> Record:
        """Pause a running sandbox, whose last pause is durable. After a failure or cancellation it keeps running. `reason`, `cause`: as in `Record`.

        Without `keep_memory` only its disk is saved, and it boots when it is resumed.

        Raises:
            StorageFull: no room for its memory. AgentFailure: its VM ended. Unavailable, AgentFailure: without `keep_memory` its guest
            did not write its disk.
        """
        before = record
        sandbox_id = record.spec.sandbox_id
        async with self.saver.turns, Undo() as undo:
            record = before = await with_actual_layers(record, running)
            undo.push("take calls again", running.unless_being_removed(running.reopen))
            await running.drain(_pausing(sandbox_id), grace_s=GRACE_S)
            step_done("calls")
            snapshot_id = str(SnapshotId.new())
            record = replace(
                record,
                snapshot=snapshot_id,
                former_snapshot=record.snapshot,
                unflushed_boot=boot_id(),
                platform=None,
                held=False,  # until it is known: nothing that is not frozen may be cloned
            )
            record = record.with_state(State.PAUSING, reason=reason, cause=cause)

            async def restore_journal() -> None:
                with suppress(StorageFull):  # the journal then says PAUSING, and recovery finds no manifest
                    save(before)

            undo.push("restore the journal", restore_journal)
            save(record)
            await fault_point("agent.pause.after_journal")

            undo.push(
                "thaw the guest's processes",
                running.unless_being_removed(partial(self._reopen_and_thaw, running)),
            )
            is_frozen = await freeze_guest(self.saver.driver, running, record)
            if not keep_memory:
                await settle_disk(running.guest, timeout_s=SETTLE_TIMEOUT_S)
                step_done("settle")
                await fault_point("agent.pause.after_settle")
            # Processes that are not saved do not continue in copies either.
            record = replace(record, held=is_frozen or not keep_memory)
            save(record)
            await running.disconnect(_cut_off(sandbox_id))
            await fault_point("agent.pause.after_hold")

            undo.push("unsuspend the VM", running.unsuspend_vm)
            await running.vm.suspend()
            step_done("freeze")
            await fault_point("agent.pause.after_freeze")

            draft = self.saver.make_draft(snapshot_id)
            undo.push("remove draft", lambda: asyncio.to_thread(remove_tree, draft))
            saved = await self.saver.save(
                running.vm, record, draft, step="agent.pause", keep_memory=keep_memory
            )
            step_done("memory")
            snapshot = await self.saver.publish(saved, record, snapshot_id, record.layers)
            step_done("snapshot")
            record = replace(record, platform=snapshot.manifest.platform)
            undo.keep()
        await fault_point("agent.pause.after_manifest")
        _log.info(
            "sandbox saved",
            extra={
                "sandbox_id": str(sandbox_id),
                "snapshot_id": snapshot_id,
                **saved.memory.figures,
                "size_b": snapshot.manifest.memory_size_b,
            },
        )
        return await self.finish(record, running, save)

    async def _reopen_and_thaw(self, running: RunningSandbox) -> None:
        await running.reopen()
        await thaw_guest(running)

    async def finish(self, record: Record, running: RunningSandbox | None, save: Save) -> Record:
        """Kill the VMM of a sandbox whose snapshot is published, and release its resources. Idempotent."""
        if running is not None:
            await running.vm.kill()
            await running.disconnect(_cut_off(record.spec.sandbox_id))
        elif record.process is not None:
            await self.saver.driver.kill(record.process, self.layout.sandbox(record.spec.sandbox_id))
        await fault_point("agent.pause.after_kill")
        paused = record.with_state(State.PAUSED, reason=record.reason, cause=record.cause)
        return await self.release(paused, save)

    async def release(self, record: Record, save: Save) -> Record:
        """Release the resources that only a running VM needs, and save `record` as PAUSED. Idempotent."""
        name = str(record.spec.sandbox_id)
        await self.confiner.release(name)
        await self.saver.driver.clean(self.layout.sandbox(record.spec.sandbox_id))
        if record.slot is not None:
            await self.slots.release(record.slot, name)
        await fault_point("agent.pause.after_release")
        with suppress(NotFound, DamagedSnapshot):
            # Not those of a VM that ran since; and in the journal too, in case the manifest becomes unreadable.
            frozen = snapshots.find(self.layout.snapshots, record.snapshot).manifest.layer_ids
            record = replace(record, layers=frozen)
        record = replace(record, slot=None, process=None, parent="", next_layer="")
        with suppress(StorageFull):  # recovery finds the manifest
            save(record)
        step_done("release")
        await fault_point("agent.pause.after_paused")
        return record


def _pausing(sandbox_id: SandboxId) -> str:
    return f"Sandbox {sandbox_id} is being paused."


def _cut_off(sandbox_id: SandboxId) -> str:
    return f"{_pausing(sandbox_id)} The call was cut off; what it began goes on."
