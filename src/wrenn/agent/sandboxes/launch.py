"""Starts a VM from a base or snapshot: slot, firewall, layer, VMM, guest ready; each step pushes its undo.

Creates and resumes are the same work from here on; they differ in where they start (`Origin`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from wrenn.agent.confinement import Confiner, file_limit_b
from wrenn.agent.guest_tokens import Tokens
from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes.journal import Record
from wrenn.agent.sandboxes.running import RunningSandbox
from wrenn.agent.vm_exit import fail_if_vm_exits
from wrenn.base.clock import Clock
from wrenn.base.faults import fault_point
from wrenn.base.secrets import Secret
from wrenn.base.steps import step_done
from wrenn.base.undo import Undo
from wrenn.base.units import MIB
from wrenn.guest import GuestConnection, Identity, grow_root, initialise
from wrenn.network import EgressPolicy, LeasedSlot, SlotPool
from wrenn.protocol.disk_share import disk_share_b
from wrenn.storage import snapshots
from wrenn.storage.snapshots import Snapshot
from wrenn.vm import BootSource, DiskRef, Driver, ImageRef, Machine, RestoreRequest

GROW_TIMEOUT_S: Final = 30.0
"""Some milliseconds for each GB; under load on a small machine many times that."""

Save = Callable[[Record], None]
"""Write the record to the journal, and remember it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a VM is started from.

    Attributes:
        token: access token that the guest expects; None: it boots, and expects none yet.
        disk_mb: size of the disk as the guest knows it.
        copy_of: frozen layer that the new layer starts as a copy of; empty for an empty layer.
        saved: snapshot whose memory the VM continues with; empty for the memory of its image.
    """

    token: Secret | None
    disk_mb: int
    copy_of: str = ""
    saved: str = ""

    @property
    def boots(self) -> bool:
        """Whether the VM boots from its disk."""
        return self.token is None


@dataclass(frozen=True, slots=True)
class Launch:
    """Starts VMs."""

    layout: Layout
    driver: Driver
    slots: SlotPool
    confiner: Confiner
    tokens: Tokens
    clock: Clock
    boot_source: Callable[[], BootSource]
    start_limit_s: float
    """Within this time a guest must answer. A restore takes a tenth of a second, a boot under emulation 3 s; under load on a small machine
    many times that."""
    io_b_per_s: int = 0
    """What each VM may read from the disk, and write to it, in a second; 0: no limit."""
    usual_share_b: int = 0
    """What a sandbox with a disk of the default size may take of the host's disk; 0: no limit."""

    def token_of(self, snapshot: Snapshot) -> Secret:
        """Return the access token that the guest of a snapshot expects."""
        return snapshots.guest_token(snapshot.directory) or self.tokens.of(snapshot.manifest.sandbox_id)

    async def run(
        self, undo: Undo, record: Record, origin: Origin, save: Save, *, step: str
    ) -> tuple[Record, RunningSandbox]:
        """Start the VM of `record`, whose layers and memory image are set, and push the undo steps onto `undo`.

        `step` begins the names of the fault points. The journal is not yet RUNNING at the end.

        Raises:
            NoCapacity, StorageFull: no room. DamagedSnapshot: what it starts from is not what was saved.
            AgentFailure, Unavailable: it did not start.
        """
        name = str(record.spec.sandbox_id)
        slot = await self.slots.acquire(name)
        undo.push("release slot", partial(self.slots.release, slot.index, name))
        record = replace(record, slot=slot.index)
        save(record)
        # Before there is a VM: no program of the guest runs under another policy for a moment.
        if (policy := record.network.policy) != EgressPolicy():
            await self.slots.set_egress(slot.index, policy)
        step_done("network")
        await fault_point(f"{step}.after_slot")

        layer, *frozen = record.layers
        undo.push("remove layer", partial(self.driver.disks.remove, layer))
        await self.driver.disks.create(
            layer,
            DiskRef(tuple(frozen), record.base),
            size_b=origin.disk_mb * MIB,
            copy_of=origin.copy_of,
        )
        step_done("disk")
        await fault_point(f"{step}.after_disk")

        undo.push("remove cgroup", partial(self.confiner.release, name))
        vm = await self._restore(record, slot, origin)
        undo.push("kill vm", vm.kill)
        step_done("machine")
        await fault_point(f"{step}.after_spawn")
        record = replace(record, process=vm.handle.process)
        save(record)

        identity = self._identity(record, origin)
        ready = initialise(slot.address, identity, timeout_s=self.start_limit_s, clock=self.clock)
        await fail_if_vm_exits(vm, ready)
        await vm.note_guest_ready()
        step_done("guest")
        await fault_point(f"{step}.after_ready")
        token = self.tokens.of(name)
        guest = GuestConnection(slot.address, token)
        undo.push("close guest connections", guest.close)
        if record.disk_mb > origin.disk_mb:
            await grow_disk(self.driver, vm, guest, record.disk_mb)
            step_done("grow")
            await fault_point(f"{step}.after_grow")
        return record, RunningSandbox(
            vm, slot.address, token, guest, record.started_at, self.slots.reset_connections
        )

    async def _restore(self, record: Record, slot: LeasedSlot, origin: Origin) -> Machine:
        disk_mb = max(record.disk_mb, origin.disk_mb)
        share_b = disk_share_b(disk_mb, self.usual_share_b)
        return await self.driver.restore(
            RestoreRequest(
                directory=self.layout.sandbox(record.spec.sandbox_id),
                shape=record.spec.shape,
                disk=DiskRef(record.layers, record.base),
                image=ImageRef(record.base, record.parent),
                saved=origin.saved,
                boot=self.boot_source() if origin.boots else None,
                link=slot,
                confinement=self.confiner.confine(
                    str(record.spec.sandbox_id),
                    slot.index,
                    record.spec.shape,
                    file_size_b=file_limit_b(record.spec.shape, disk_mb, share_b),
                    io_b_per_s=self.io_b_per_s,
                ),
                metadata={
                    "sandbox_id": str(record.spec.sandbox_id),
                    "template_id": record.spec.template_id,
                    "template": record.spec.template_name or record.spec.template,
                },
            )
        )

    def _identity(self, record: Record, origin: Origin) -> Identity:
        name = str(record.spec.sandbox_id)
        return Identity(
            hostname=name,
            machine_id=record.spec.sandbox_id.value.hex,
            envs={
                **record.spec.envs,
                "WRENN_SANDBOX": "true",
                "WRENN_SANDBOX_ID": name,
                "WRENN_TEMPLATE": record.spec.template_name or record.spec.template,
                **({"WRENN_TEMPLATE_ID": record.spec.template_id} if record.spec.template_id else {}),
                # Programs made for e2b look for these; their clients know the sandbox by the same ids.
                "E2B_SANDBOX_ID": record.spec.sandbox_id.without_prefix,
                "E2B_TEMPLATE_ID": record.spec.template_name or record.spec.template,
            },
            token=self.tokens.of(name),
            former_token=origin.token,
            lifecycle_id=secrets.token_hex(8),
        )


async def grow_disk(driver: Driver, vm: Machine, guest: GuestConnection, disk_mb: int) -> None:
    """Enlarge the disk of a running VM and the guest's file system on it. Idempotent.

    Raises:
        AgentFailure, Unavailable: the VMM or the guest did not do it.
    """
    await vm.grow_disk(disk_mb * MIB)
    if driver.capabilities.sized_disks:
        await fail_if_vm_exits(vm, grow_root(guest, disk_mb * MIB, timeout_s=GROW_TIMEOUT_S))
