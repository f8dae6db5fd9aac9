"""The operations on a sandbox, one file each. The registry decides when they run."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from wrenn.agent.bases import Bases
from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes.adopt_state import AdoptState
from wrenn.agent.sandboxes.bring_up import BringUp
from wrenn.agent.sandboxes.export_state import ExportState
from wrenn.agent.sandboxes.fetch_snapshot import FetchSnapshot
from wrenn.agent.sandboxes.journal import Record, State
from wrenn.agent.sandboxes.launch import Save
from wrenn.agent.sandboxes.pause import Pause
from wrenn.agent.sandboxes.resume import Resume
from wrenn.agent.sandboxes.running import RunningSandbox
from wrenn.agent.sandboxes.set_disk import SetDisk
from wrenn.agent.sandboxes.set_network import SetNetwork
from wrenn.agent.sandboxes.snapshot import TakeSnapshot
from wrenn.agent.sandboxes.tear_down import TearDown
from wrenn.base.clock import Clock
from wrenn.base.errors import StorageFull
from wrenn.vm import Driver


@dataclass(frozen=True, slots=True)
class Operations:
    """All operations on a sandbox, and the objects that they share."""

    layout: Layout
    bases: Bases
    driver: Driver
    clock: Clock
    bring_up: BringUp
    pause: Pause
    resume: Resume
    snapshot: TakeSnapshot
    set_disk: SetDisk
    set_network: SetNetwork
    tear_down: TearDown
    export_state: ExportState
    adopt_state: AdoptState
    fetch_snapshot: FetchSnapshot

    async def record_vm_exit(
        self, record: Record, running: RunningSandbox | None, save: Save, *, reason: str
    ) -> Record:
        """Record that the VM ended by itself: with a snapshot the sandbox becomes PAUSED, otherwise LOST."""
        if record.snapshot:
            record = record.with_state(
                State.PAUSED, reason=f"{reason} This is what it was at its last pause."
            )
        else:
            record = record.with_state(State.LOST, reason=reason)
        with suppress(StorageFull):  # found out again at the next start
            save(record)
        if running is not None:
            await running.disconnect(f"{reason} The call was cut off.")
        return await self.pause.release(record, save) if record.snapshot else record
