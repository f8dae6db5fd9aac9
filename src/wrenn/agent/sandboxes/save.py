"""Save a stopped VM: memory diff and device state into a draft, and the manifest that makes it a snapshot."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from wrenn.agent.layout import Layout
from wrenn.agent.memory_images import ImageRef, MemoryImages
from wrenn.agent.sandboxes.journal import Record
from wrenn.base.clock import Clock
from wrenn.base.faults import fault_point
from wrenn.linux.files import translated
from wrenn.linux.process_memory import ProcessMemory
from wrenn.storage import layers, snapshots
from wrenn.storage.memory_diff import DiffSize, changed_pages, write_diff
from wrenn.storage.snapshots import Manifest, Snapshot
from wrenn.vm import Vm, VmDriver

_IMAGE_DEPTH: Final = 4
"""Snapshots that a memory image may consist of; each is read when it is loaded. Deeper ones lie on the base again."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A stopped VM's memory and device state in a draft."""

    draft: Path
    parent: str
    memory: DiffSize


@dataclass(frozen=True, slots=True)
class Saver:
    """What it takes to save VMs."""

    layout: Layout
    driver: VmDriver
    images: MemoryImages
    clock: Clock

    def make_draft(self, snapshot_id: str) -> Path:
        """The folder of a snapshot to be. Raises StorageFull."""
        draft = snapshots.draft_path(self.layout.snapshots, snapshot_id)
        try:
            draft.mkdir(mode=0o700)
        except OSError as error:
            raise translated(error, doing="create the snapshot's folder") from error
        return draft

    async def save(self, vm: Vm, record: Record, draft: Path, *, step: str) -> Saved:
        """Write what the frozen VM is into `draft`; `step` begins the names of the fault points.

        Raises:
            StorageFull: no room. AgentFailure: the VM ended.
        """
        lineage = self._lineage(record.parent)
        parent = record.parent if len(lineage) < _IMAGE_DEPTH else ""
        async with self.images.borrowed(ImageRef(record.base, parent)) as image:
            below = [] if parent == record.parent else lineage
            memory = await asyncio.to_thread(_write_memory, draft / "memory", vm.memory(), image, below)
        await fault_point(f"{step}.after_memory")
        try:
            await vm.save_state(draft / "state")
        except OSError as error:
            raise translated(error, doing="save the sandbox's devices") from error
        await fault_point(f"{step}.after_state")
        return Saved(draft, parent, memory)

    def _lineage(self, parent: str) -> list[Snapshot]:
        """The snapshots that an image consists of, the topmost first."""
        lineage: list[Snapshot] = []
        while parent:
            lineage.append(snapshots.find(self.layout.snapshots, parent))
            parent = lineage[-1].manifest.parent
        return lineage

    def publish(self, saved: Saved, record: Record, snapshot_id: str, layer_ids: tuple[str, ...]) -> Snapshot:
        """Make the draft the snapshot of this id, with these frozen layers.

        Raises:
            StorageFull: no room.
        """
        manifest = Manifest(
            snapshot_id=snapshot_id,
            sandbox_id=str(record.spec.sandbox_id),
            template=record.spec.template,
            vcpus=record.spec.shape.vcpus,
            memory_mb=record.spec.shape.memory_mb,
            vmm=self.driver.vmm,
            accelerator=self.driver.accelerator,
            machine=self.driver.machine,
            base=record.base,
            parent=saved.parent,
            layers=tuple(layers.seal(self.layout.layers, layer) for layer in layer_ids),
            created_at=self.clock.now().timestamp(),
            metadata=dict(record.metadata),
            memory_size_b=saved.memory.size_b,
            memory_digest=saved.memory.digest,
        )
        return snapshots.publish(saved.draft, self.layout.snapshots, manifest)


def _write_memory(path: Path, memory: ProcessMemory, image: int, below: list[Snapshot]) -> DiffSize:
    """With `below`: the pages of those diffs are looked at too, because `image` lies under them."""
    pages = [changed_pages(snapshot.memory, snapshot.manifest.memory_digest) for snapshot in below]
    return write_diff(path, memory, image, np.concatenate(pages) if pages else None)
