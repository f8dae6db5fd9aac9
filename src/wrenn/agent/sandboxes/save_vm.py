"""Saves a suspended VM: writes memory and device state to a draft, then publishes it as a snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes.journal import Record
from wrenn.agent.vm_platform import platform_of
from wrenn.base.clock import Clock
from wrenn.base.errors import NotFound
from wrenn.base.faults import fault_point
from wrenn.linux.files import translated
from wrenn.linux.threads import SAVES_AT_ONCE, run_to_end
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.layers import LayerSeal
from wrenn.storage.snapshots import Manifest, MemorySeal, Snapshot
from wrenn.vm import DiskChain, Driver, ImageRef, Machine, SavedMemory


@dataclass(frozen=True, slots=True)
class SavedVm:
    """What is saved of a suspended VM in a draft: memory and device state, or without memory nothing. Its disk is saved as layers.

    Attributes:
        metadata: for the manifest.
    """

    draft: Path
    memory: SavedMemory
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Saver:
    """Saves suspended VMs as snapshots.

    Attributes:
        turns: of those that are saved at once. A VM runs on while it waits for its turn.
    """

    layout: Layout
    driver: Driver
    clock: Clock
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SAVES_AT_ONCE))

    def make_draft(self, snapshot_id: str) -> Path:
        """Create the draft folder of a snapshot. Raises StorageFull."""
        draft = snapshots.draft_path(self.layout.snapshots, snapshot_id)
        try:
            draft.mkdir(mode=0o700)
        except OSError as error:
            raise translated(error, doing="create the snapshot's folder") from error
        return draft

    async def save(
        self, vm: Machine, record: Record, draft: Path, *, step: str, keep_memory: bool = True
    ) -> SavedVm:
        """Write memory and device state of the suspended VM to `draft`; `step` prefixes the names of the fault points.

        Without `keep_memory` only that there are none is written; the guest must have settled its disk before.

        Raises:
            StorageFull: no space. AgentFailure: the VM ended.
        """

        async def on_part_saved(part: str) -> None:
            await fault_point(f"{step}.after_{part}")

        if not keep_memory:
            return SavedVm(draft, SavedMemory("", MemorySeal()), snapshots.write_disk_only(draft))
        image = ImageRef(record.base, record.parent)
        return SavedVm(draft, await self.driver.memory.save(vm, image, draft, on_part_saved=on_part_saved))

    async def publish(
        self, saved: SavedVm, record: Record, snapshot_id: str, layer_ids: tuple[str, ...]
    ) -> Snapshot:
        """Publish the draft as the snapshot of this id with these frozen layers. After a cancellation the snapshot does not exist.

        Raises:
            StorageFull: no space. DamagedBase, DamagedSnapshot: the base or an earlier snapshot is not the one that the VM runs on.
        """
        base_digest = self.driver.bases.content_digest(record.base)
        former = self._former(record)
        if any(manifest.base_digest != base_digest for manifest in former if manifest.base == record.base):
            raise DamagedSnapshot(
                f"The base of {record.spec.sandbox_id} was made again since it was started."
            )
        # A frozen layer keeps its first seal: it need not be read again, and later damage does not change the seal.
        known_seals = {seal.layer_id: seal for manifest in former for seal in manifest.layers}
        known_seals.pop(layer_ids[0], None)  # written until now, so its content changed
        seals = await run_to_end(partial(_layer_seals, self.driver.disks, layer_ids, known_seals))
        platform = platform_of(self.driver)
        manifest = Manifest(
            snapshot_id=snapshot_id,
            sandbox_id=str(record.spec.sandbox_id),
            template=record.spec.template,
            vcpus=record.spec.shape.vcpus,
            memory_mb=record.spec.shape.memory_mb,
            vmm=platform.vmm,
            accelerator=platform.accelerator,
            machine=self.driver.machine,
            base=record.base,
            base_digest=base_digest,
            parent=saved.memory.parent,
            layers=seals,
            created_at=self.clock.now().timestamp(),
            metadata={
                **record.metadata,
                **saved.metadata,
                snapshots.ARCH: platform.arch,
                snapshots.CPU: platform.cpu,
            },
            disk_mb=record.disk_mb,
            **asdict(saved.memory.seal),
        )
        return snapshots.publish(saved.draft, self.layout.snapshots, manifest)

    def _former(self, record: Record) -> list[Manifest]:
        """Return the manifests of the snapshots that the sandbox was restored from, as far as they exist."""
        todo, found = [record.snapshot, record.former_snapshot, record.parent], dict[str, Manifest]()
        while todo:
            name = todo.pop()
            if name and name not in found:
                with suppress(NotFound, DamagedSnapshot):
                    found[name] = snapshots.find(self.layout.snapshots, name).manifest
                    todo.append(found[name].parent)
        return list(found.values())


def _layer_seals(
    disks: DiskChain, layer_ids: tuple[str, ...], known_seals: dict[str, LayerSeal]
) -> tuple[LayerSeal, ...]:
    return tuple(known_seals.get(layer) or disks.seal(layer) for layer in layer_ids)
