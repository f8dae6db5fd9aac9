"""Bring a sandbox up: base → journal → disk → network slot → VM → guest ready. Each step's undo stands on its next line."""

from __future__ import annotations

import asyncio
import os
import secrets
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from wrenn.agent.bases import Bases, LoadedBase
from wrenn.agent.confinement import confine, release_cgroup
from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes import journal
from wrenn.agent.sandboxes.journal import Record, SandboxSpec, State
from wrenn.agent.sandboxes.running import RunningSandbox
from wrenn.agent.tokens import Tokens
from wrenn.agent.vm_end import unless_it_ends
from wrenn.base.clock import Clock
from wrenn.base.faults import fault_point
from wrenn.base.undo import Undo
from wrenn.guest import GuestConnection, Identity, initialise
from wrenn.linux.files import remove_tree, translated
from wrenn.network import Slot, Slots
from wrenn.storage.disks import clone_overlay
from wrenn.vm import Disk, RestoreRequest, Vm, VmDriver

READY_TIMEOUT_S: Final = 30.0
"""A restore takes a tenth of a second; under load on a small machine it may take many times that."""


@dataclass(frozen=True, slots=True)
class BringUp:
    """What it takes to bring sandboxes up."""

    layout: Layout
    driver: VmDriver
    slots: Slots
    bases: Bases
    tokens: Tokens
    clock: Clock

    async def run(self, spec: SandboxSpec) -> tuple[Record, RunningSandbox]:
        """Bring `spec` up. On any failure or cancellation nothing of it is left.

        Raises:
            NotFound: no such template. NoCapacity, StorageFull: no room. AgentFailure, Unavailable: it did not start.
        """
        base = await self.bases.get(spec.template, spec.shape)
        directory = self.layout.sandbox(spec.sandbox_id)
        name = str(spec.sandbox_id)
        async with Undo() as undo:
            try:
                directory.mkdir(mode=0o700)
            except OSError as error:
                raise translated(error, doing="create the sandbox's folder") from error
            undo.push("remove files", lambda: asyncio.to_thread(remove_tree, directory))
            record = Record(
                spec, State.STARTING, started_at=self.clock.now().timestamp(), metadata=base.metadata
            )
            journal.save(directory, record)
            await fault_point("agent.create.after_journal")

            slot = await self.slots.acquire(name)
            undo.push("release slot", partial(self.slots.release, slot.index, name))
            record = replace(record, slot=slot.index)
            journal.save(directory, record)
            await fault_point("agent.create.after_slot")

            clone_overlay(base.files.empty_disk, directory / "disk.qcow2")
            await fault_point("agent.create.after_disk")

            undo.push("remove cgroup", partial(release_cgroup, self.layout, name))
            vm = await self._restore(spec, slot, base)
            undo.push("kill vm", vm.kill)
            await fault_point("agent.create.after_spawn")
            record = replace(record, process=vm.handle.process)
            journal.save(directory, record)

            await unless_it_ends(
                vm, initialise(slot.address, self._identity(spec, base), timeout_s=READY_TIMEOUT_S)
            )
            await fault_point("agent.create.after_ready")
            guest = GuestConnection(slot.address, self.tokens.of(name))
            undo.push("close guest connections", guest.close)

            record = record.moved(State.RUNNING)
            journal.save(directory, record)
            await fault_point("agent.create.after_running")
            undo.keep()
            return record, RunningSandbox(vm, slot.address, guest, record.started_at)

    async def _restore(self, spec: SandboxSpec, slot: Slot, base: LoadedBase) -> Vm:
        directory = self.layout.sandbox(spec.sandbox_id)
        tap = slot.open_tap()
        try:
            return await self.driver.restore(
                RestoreRequest(
                    directory=directory,
                    shape=spec.shape,
                    disk=Disk(directory / "disk.qcow2", (base.files.disk,), base.image),
                    memory_fd=base.memory_fd,
                    state=base.files.state,
                    tap_fd=tap,
                    confinement=confine(self.layout, str(spec.sandbox_id), slot.index, spec.shape),
                )
            )
        finally:
            os.close(tap)

    def _identity(self, spec: SandboxSpec, base: LoadedBase) -> Identity:
        name = str(spec.sandbox_id)
        return Identity(
            hostname=name,
            machine_id=spec.sandbox_id.value.hex,
            envs={
                **spec.envs,
                "WRENN_SANDBOX": "true",
                "WRENN_SANDBOX_ID": name,
                "WRENN_TEMPLATE": spec.template,
            },
            token=self.tokens.of(name),
            former_token=self.tokens.of(base.files.key),
            lifecycle_id=secrets.token_hex(8),
        )
