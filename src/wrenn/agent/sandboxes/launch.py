"""Start a VM from what was kept of one: slot, firewall → layer → VMM → guest ready. Each step's undo stands on its next line.

Creates and resumes are the same work from here on; they differ in where they start (`Origin`).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.agent.confinement import confine, file_limit_b, release_cgroup
from wrenn.agent.layout import Layout
from wrenn.agent.memory_images import ImageRef, MemoryImages
from wrenn.agent.sandboxes.journal import Record
from wrenn.agent.sandboxes.running import RunningSandbox
from wrenn.agent.tokens import Tokens
from wrenn.agent.vm_end import unless_it_ends
from wrenn.base.faults import fault_point
from wrenn.base.undo import Undo
from wrenn.base.units import MIB
from wrenn.guest import GuestConnection, Identity, grow_root, initialise
from wrenn.linux.files import remove_file
from wrenn.linux.process_memory import ProcessMemory
from wrenn.network import EgressPolicy, Slot, Slots
from wrenn.protocol.disk_share import disk_share_b
from wrenn.storage.bases import Base
from wrenn.storage.disks import lay_overlay
from wrenn.storage.layers import layer_path
from wrenn.storage.memory_diff import lay_over
from wrenn.storage.snapshots import Snapshot
from wrenn.vm import Disk, RestoreRequest, Vm, VmDriver

READY_TIMEOUT_S: Final = 30.0
"""A restore takes a tenth of a second; under load on a small machine it may take many times that."""

GROW_TIMEOUT_S: Final = 30.0
"""Some milliseconds for each GB; under load on a small machine many times that."""

Save = Callable[[Record], None]
"""Write the record to the journal, and remember it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a VM is started from.

    Attributes:
        state: device state.
        token_of: name of the sandbox or base whose token the guest expects.
        top_layer: file that the new layer starts as a copy of.
        disk_mb: size of the disk as the guest knows it.
        diff: snapshot whose memory is laid over the image before the VM runs.
    """

    state: Path
    token_of: str
    top_layer: Path
    disk_mb: int
    diff: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class Launch:
    """What it takes to start VMs."""

    layout: Layout
    driver: VmDriver
    slots: Slots
    images: MemoryImages
    tokens: Tokens
    io_b_per_s: int = 0
    """What each VM may read from the disk, and write to it, in a second; 0: no limit."""
    usual_share_b: int = 0
    """What a sandbox with a disk of the default size may take of the host's disk; 0: no limit."""

    async def run(
        self, undo: Undo, record: Record, origin: Origin, save: Save, *, step: str
    ) -> tuple[Record, RunningSandbox]:
        """Start the VM of `record`, whose layers and memory image are decided. Its undo steps are pushed on `undo`.

        `step` begins the names of the fault points. The journal is not yet RUNNING at the end.

        Raises:
            NoCapacity, StorageFull: no room. DamagedSnapshot: what it starts from is not what was saved.
            AgentFailure, Unavailable: it did not start.
        """
        name = str(record.spec.sandbox_id)
        async with self.images.borrowed(ImageRef(record.base, record.parent)) as memory_fd:
            slot = await self.slots.acquire(name)
            undo.push("release slot", partial(self.slots.release, slot.index, name))
            record = replace(record, slot=slot.index)
            save(record)
            # Before there is a VM: no program of the guest runs under another policy for a moment.
            if (policy := record.network.policy) != EgressPolicy():
                await self.slots.set_egress(slot.index, policy)
            await fault_point(f"{step}.after_slot")

            layer = layer_path(self.layout.layers, record.layers[0])
            undo.push("remove layer", partial(remove_file, layer))
            await lay_overlay(origin.top_layer, layer, size_b=origin.disk_mb * MIB)
            await fault_point(f"{step}.after_disk")

            undo.push("remove cgroup", partial(release_cgroup, self.layout, name))
            vm = await self._restore(record, slot, origin, memory_fd)
        undo.push("kill vm", vm.kill)
        await fault_point(f"{step}.after_spawn")
        record = replace(record, process=vm.handle.process)
        save(record)

        identity = self._identity(record, origin)
        await unless_it_ends(vm, initialise(slot.address, identity, timeout_s=READY_TIMEOUT_S))
        await fault_point(f"{step}.after_ready")
        token = self.tokens.of(name)
        guest = GuestConnection(slot.address, token)
        undo.push("close guest connections", guest.close)
        if record.disk_mb > origin.disk_mb:
            await grow_disk(vm, guest, record.disk_mb)
            await fault_point(f"{step}.after_grow")
        return record, RunningSandbox(vm, slot.address, token, guest, record.started_at)

    async def _restore(self, record: Record, slot: Slot, origin: Origin, memory_fd: int) -> Vm:
        base = Base(record.base, self.layout.bases / record.base)
        overlay, *frozen = (layer_path(self.layout.layers, layer) for layer in record.layers)
        disk_mb = max(record.disk_mb, origin.disk_mb)
        share_b = disk_share_b(disk_mb, self.usual_share_b)
        tap = slot.open_tap()
        try:
            return await self.driver.restore(
                RestoreRequest(
                    directory=self.layout.sandbox(record.spec.sandbox_id),
                    shape=record.spec.shape,
                    disk=Disk(overlay, (*frozen, base.disk), base.image),
                    memory_fd=memory_fd,
                    state=origin.state,
                    tap_fd=tap,
                    confinement=confine(
                        self.layout,
                        str(record.spec.sandbox_id),
                        slot.index,
                        record.spec.shape,
                        file_size_b=file_limit_b(record.spec.shape, disk_mb, share_b),
                        io_b_per_s=self.io_b_per_s,
                    ),
                    fill=_filler(origin.diff) if origin.diff is not None else None,
                )
            )
        finally:
            os.close(tap)

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
            },
            token=self.tokens.of(name),
            former_token=self.tokens.of(origin.token_of),
            lifecycle_id=secrets.token_hex(8),
        )


def image_size_mb(base: Base) -> int:
    """Size of the disk of VMs that were not given a larger one."""
    return base.image.stat().st_size // MIB


async def grow_disk(vm: Vm, guest: GuestConnection, disk_mb: int) -> None:
    """Make the disk of a running VM this large, and have the guest's file system fill it. May be repeated.

    Raises:
        AgentFailure, Unavailable: the VMM or the guest did not do it.
    """
    await vm.grow_disk(disk_mb * MIB)
    await unless_it_ends(vm, grow_root(guest, disk_mb * MIB, timeout_s=GROW_TIMEOUT_S))


def _filler(snapshot: Snapshot) -> Callable[[ProcessMemory], None]:
    return partial(lay_over, snapshot.memory, snapshot.manifest.memory_digest)
