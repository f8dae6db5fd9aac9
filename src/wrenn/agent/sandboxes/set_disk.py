"""Enlarges the disk of a sandbox: first the journal, then disk and file system of a running one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from wrenn.agent.confinement import Confiner, file_limit_b, layer_limit_b
from wrenn.agent.sandboxes.journal import Record, State
from wrenn.agent.sandboxes.launch import Save, grow_disk
from wrenn.agent.sandboxes.running import RunningSandbox
from wrenn.base.errors import InvalidRequest, InvalidState
from wrenn.base.units import MIB
from wrenn.protocol.disk_share import disk_share_b
from wrenn.vm import Driver


@dataclass(frozen=True, slots=True)
class SetDisk:
    """Enlarges disks. `usual_share_b` is the disk share of a sandbox with the default disk size."""

    driver: Driver
    confiner: Confiner
    usual_share_b: int

    def record_size(self, record: Record, disk_mb: int, save: Save) -> Record:
        """Write the new size to the journal; it counts for the sandbox's share from now on. Idempotent.

        Raises:
            InvalidRequest: its disk is larger. InvalidState: it has ended. StorageFull.
        """
        if record.state not in (State.RUNNING, State.PAUSED):
            raise InvalidState(f"Sandbox {record.spec.sandbox_id} is {record.state}.")
        now_mb = record.disk_mb or self.driver.disks.image_size_b(record.base) // MIB
        if disk_mb < now_mb:
            raise InvalidRequest(f"disk_size_mb: the disk has {now_mb} MB and can only be made larger.")
        # Before the disk: a snapshot that says too much is restored, one that says too little would cut the disk off.
        changed = replace(record, disk_mb=disk_mb) if disk_mb > now_mb else record
        save(changed)
        return changed

    async def apply(self, record: Record, running: RunningSandbox) -> None:
        """Enlarge disk and file system of the running sandbox to the size in its record. Idempotent.

        Raises:
            AgentFailure, Unavailable: the VMM or the guest did not do it. InvalidState: not while it runs.
        """
        process, shape = running.vm.handle.process, record.spec.shape
        share_b = disk_share_b(record.disk_mb, self.usual_share_b)
        # Where it may not be raised to what a new VMM would have, it must at least hold the layer.
        if not self.confiner.raise_file_limit(
            process,
            file_limit_b(shape, record.disk_mb, share_b),
            at_least_b=layer_limit_b(record.disk_mb),
        ):
            raise InvalidState(
                f"The host may not raise the limits of {record.spec.sandbox_id} while it runs: pause and resume it, and it has "
                "the larger disk."
            )
        await grow_disk(self.driver, running.vm, running.guest, record.disk_mb)
