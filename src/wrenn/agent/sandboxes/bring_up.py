"""Starts a new sandbox from a base or a snapshot: journal, then `launch.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from wrenn.agent.bases import Bases
from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes.check_snapshot import check_restorable
from wrenn.agent.sandboxes.fetch_state import HoldGarbage
from wrenn.agent.sandboxes.journal import NetworkSettings, Record, SandboxSpec, State
from wrenn.agent.sandboxes.launch import Launch, Origin, Save
from wrenn.agent.sandboxes.running import RunningSandbox
from wrenn.base.clock import Clock
from wrenn.base.errors import InvalidRequest
from wrenn.base.faults import fault_point
from wrenn.base.ids import ImageId
from wrenn.base.steps import step_done
from wrenn.base.undo import Undo
from wrenn.base.units import MIB
from wrenn.linux.files import remove_tree, translated
from wrenn.linux.threads import run_to_end
from wrenn.protocol.api import DEFAULT_DISK_SIZE_MB
from wrenn.storage.layers import new_layer_id
from wrenn.vm import Driver, Shape

FetchImage = Callable[[ImageId], Awaitable[None]]
"""Brings an image to this host, unless it is there."""


@dataclass(frozen=True, slots=True)
class BringUp:
    """Starts new sandboxes."""

    layout: Layout
    driver: Driver
    bases: Bases
    fetch_image: FetchImage
    launch: Launch
    clock: Clock

    async def run(
        self, spec: SandboxSpec, network: NetworkSettings, save: Save, *, hold_garbage: HoldGarbage
    ) -> tuple[Record, RunningSandbox]:
        """Start the sandbox. After a failure or cancellation nothing of it remains. `hold_garbage` has a snapshot kept that is unpinned meanwhile.

        Raises:
            NotFound: no such template, image or snapshot. InvalidRequest: not in this size. NoCapacity, StorageFull: no room.
            AgentFailure, Unavailable: it did not start.
        """
        # No await between the end of this and writing the journal that references the snapshot: it could be collected in between.
        if spec.snapshot_id:
            record, origin = await self._from_snapshot(spec, hold_garbage)
        else:
            record, origin = await self._from_template(spec)
        record = replace(record, network=network)
        directory = self.layout.sandbox(spec.sandbox_id)
        async with Undo() as undo:
            try:
                directory.mkdir(mode=0o700)
            except OSError as error:
                raise translated(error, doing="create the sandbox's folder") from error
            undo.push("remove files", lambda: asyncio.to_thread(remove_tree, directory))
            save(record)
            await fault_point("agent.create.after_journal")
            record, running = await self.launch.run(undo, record, origin, save, step="agent.create")
            record = record.with_state(State.RUNNING)
            save(record)
            await fault_point("agent.create.after_running")
            undo.keep()
            return record, running

    def _new(self, spec: SandboxSpec) -> Record:
        return Record(spec, State.STARTING, started_at=self.clock.now().timestamp(), layers=(new_layer_id(),))

    async def _from_template(self, spec: SandboxSpec) -> tuple[Record, Origin]:
        if (image_id := ImageId.find(spec.template)) is not None:
            await self.fetch_image(image_id)
            step_done("image")
        base = await self.bases.get(spec.template, spec.shape)
        step_done("template")
        image_mb = self.driver.disks.image_size_b(base.key) // MIB
        asked_mb = spec.disk_mb
        if asked_mb < image_mb and asked_mb != DEFAULT_DISK_SIZE_MB:
            raise InvalidRequest(
                f"disk_size_mb: the disk of {spec.template_name or spec.template} has {image_mb} MB and can only be made larger."
            )
        # With the default size the disk has the size of the template's image.
        disk_mb = asked_mb if asked_mb > image_mb and asked_mb != DEFAULT_DISK_SIZE_MB else 0
        record = replace(self._new(spec), base=base.key, metadata=base.metadata, disk_mb=disk_mb)
        return record, Origin(token=self.launch.tokens.of(base.key), disk_mb=image_mb)

    async def _from_snapshot(self, spec: SandboxSpec, hold_garbage: HoldGarbage) -> tuple[Record, Origin]:
        with hold_garbage():
            snapshot = await run_to_end(partial(check_restorable, self.layout, self.driver, spec.snapshot_id))
        manifest = snapshot.manifest
        if spec.shape != Shape(manifest.vcpus, manifest.memory_mb):
            raise InvalidRequest(
                f"{spec.snapshot_id} can only be restored with {manifest.vcpus} vCPUs and {manifest.memory_mb} MB."
            )
        new = self._new(spec)
        record = replace(
            new,
            base=manifest.base,
            parent=manifest.snapshot_id if manifest.has_memory else "",
            layers=(*new.layers, *manifest.layer_ids),
            origin_layers=manifest.layer_ids,
            metadata=manifest.versions,
            disk_mb=manifest.disk_mb,
        )
        disk_mb = manifest.disk_mb or self.driver.disks.image_size_b(manifest.base) // MIB
        token = self.launch.token_of(snapshot) if manifest.has_memory else None
        return record, Origin(token=token, disk_mb=disk_mb)
