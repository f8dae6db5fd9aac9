"""Restores the sandboxes of a former agent from its journals, once, before the agent starts to serve."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.agent.confinement import Confiner
from wrenn.agent.guest_tokens import Tokens
from wrenn.agent.layout import Layout
from wrenn.agent.recovery.check_paused import checked
from wrenn.agent.sandboxes import Operations, Record, RunningSandbox, Sandboxes, State, journal
from wrenn.agent.sandboxes.launch import Save
from wrenn.agent.sandboxes.transfers import SCRATCH
from wrenn.base.errors import InternalError, NotFound, StorageFull
from wrenn.base.faults import fault_point
from wrenn.base.ids import SandboxId
from wrenn.guest import GuestConnection
from wrenn.linux.files import remove_tree
from wrenn.linux.threads import run_to_end
from wrenn.network import SlotPool
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedSnapshot
from wrenn.vm import Driver, MachineHandle

_log = logging.getLogger(__name__)

LOST_REASON: Final = "The virtual machine ended while the agent was down."
_CONCURRENCY: Final = 16


@contextmanager
def _log_and_continue(event: str, name: str) -> Generator[None]:
    """Log an exception and continue, so that one broken sandbox does not stop recovery of the others."""
    try:
        yield
    except Exception:  # noqa: BLE001 - recovery continues with the others; `wrenn doctor` lists leftovers
        _log.exception(event, extra={"sandbox_id": name})


@dataclass(frozen=True, slots=True)
class Recovery:
    """Reconciles the journals of a former agent with what exists on the machine."""

    layout: Layout
    driver: Driver
    slots: SlotPool
    confiner: Confiner
    tokens: Tokens
    sandboxes: Sandboxes
    operations: Operations

    async def run(self) -> bool:
        """Recover all sandboxes; afterwards every resource of this network block has an owner.

        Returns whether every journal could be read: otherwise it is unknown which snapshots and layers are referenced.
        """
        found = _read_journals(self.layout)
        records = (*found.to_recover, *found.to_remove)
        # A VMM without a journal cannot be adopted; it must end before its network is removed.
        names = {str(record.spec.sandbox_id) for record in records}
        for name in self.confiner.names():
            if name not in names:
                with _log_and_continue("orphan is not removed", name):
                    await self.confiner.release(name)
        await self.slots.start({r.slot: str(r.spec.sandbox_id) for r in records if r.slot is not None})
        await fault_point("agent.recover.after_slots")
        self.operations.bases.sweep()
        for draft in snapshots.drafts(self.layout.snapshots):
            remove_tree(draft)
        for name in found.empty:
            with _log_and_continue("folder is not removed", name):
                remove_tree(self.layout.sandboxes / name)
        for record in found.to_remove:
            with _log_and_continue("sandbox is not taken down", str(record.spec.sandbox_id)):
                await self.operations.tear_down.run(record, None)
                continue
            # Registered as REMOVING: the control plane's next call retries the removal.
            self.sandboxes.adopt(replace(record, state=State.REMOVING), None)
        self.sandboxes.note_unreadable(
            [sandbox_id for name in found.unreadable if (sandbox_id := SandboxId.find(name)) is not None]
        )
        turns = asyncio.Semaphore(_CONCURRENCY)
        await asyncio.gather(*(self._adopt(record, turns) for record in found.to_recover))
        with _log_and_continue("leftovers of virtual machines are not removed", ""):
            await self.driver.sweep()
        _log.info(
            "recovered",
            extra={
                "recovered": len(found.to_recover),
                "removed": len(found.to_remove) + len(found.empty),
                "unreadable": found.unreadable,
            },
        )
        return not found.unreadable

    async def _adopt(self, record: Record, turns: asyncio.Semaphore) -> None:
        async with turns:
            running: RunningSandbox | None = None
            # A sandbox whose recovery fails is registered unchanged: its files stay, and the next start tries again.
            with _log_and_continue("sandbox is not recovered", str(record.spec.sandbox_id)):
                record, running = await self._recover_sandbox(record)
            self.sandboxes.adopt(record, running)

    async def _recover_sandbox(self, record: Record) -> tuple[Record, RunningSandbox | None]:
        """Return the sandbox as it is now; one that is paused in the end is checked."""
        save = partial(journal.save, self.layout.sandbox(record.spec.sandbox_id))
        record, running = await self._complete(record, save)
        if record.state is State.PAUSED:
            record = await run_to_end(partial(self._check_paused, record, save))
        return record, running

    async def _complete(self, record: Record, save: Save) -> tuple[Record, RunningSandbox | None]:
        """Complete or undo an interrupted pause or resume, or adopt the VM."""
        if record.state is State.PAUSING:
            if self._exists(record.snapshot):
                return await self.operations.pause.finish(record, None, save), None
            former = record.former_snapshot
            record = record.with_state(State.RUNNING)
            record = replace(record, snapshot=former, former_snapshot="", unflushed_boot="")
        if record.state is State.RESUMING:
            if record.process is not None:
                directory = self.layout.sandbox(record.spec.sandbox_id)
                await self.operations.tear_down.driver.kill(record.process, directory)
            return await self.operations.pause.release(record.with_state(State.PAUSED), save), None
        if record.state is State.PAUSED:
            # The former agent may have been uploading it, or had just adopted it.
            for scratch in SCRATCH:
                remove_tree(self.layout.sandbox(record.spec.sandbox_id) / scratch)
            if record.slot is not None:
                # Its VM ended by itself, and the former agent before it had released what the VM needed.
                record = await self.operations.pause.release(record, save)
            return record, None
        if record.state is State.RUNNING:
            return await self._adopt_running(record, save)
        return record, None

    def _exists(self, snapshot_id: str) -> bool:
        try:
            snapshots.find(self.layout.snapshots, snapshot_id)
        except (NotFound, DamagedSnapshot):
            return False
        return True

    def _check_paused(self, record: Record, save: Save) -> Record:
        found = checked(self.layout, self.driver, record)
        if found != record:
            fields = {"sandbox_id": str(record.spec.sandbox_id), "state": str(found.state)}
            _log.error("paused sandbox is not what was saved", extra={**fields, "reason": found.reason})
            with suppress(StorageFull):
                save(found)
        return found

    async def _adopt_running(self, record: Record, save: Save) -> tuple[Record, RunningSandbox | None]:
        directory = self.layout.sandbox(record.spec.sandbox_id)
        vm = None
        if record.process is not None:
            vm = await self.driver.adopt(MachineHandle(record.process, directory))
        if vm is None:
            return await self.operations.record_vm_exit(record, None, save, reason=LOST_REASON), None
        assert record.slot is not None, "a running sandbox has a slot"
        # The settings may have changed since the former agent started, or it may have died while it changed the policy.
        slot, renewed = record.slot, False
        with _log_and_continue("egress policy is not renewed", str(record.spec.sandbox_id)):
            await self.slots.set_egress(slot, record.network.policy)
            renewed = True
        if not renewed:
            # The control plane then sees an older revision and sends the policy again.
            record = replace(record, network=replace(record.network, revision=0))
        address = self.slots.address(slot)
        token = self.tokens.of(str(record.spec.sandbox_id))
        now = self.operations.clock.now().timestamp()
        running = RunningSandbox(
            vm, address, token, GuestConnection(address, token), now, self.slots.reset_connections
        )
        # The former agent may have died while the VM was suspended or the guest frozen: the registry's first maintenance
        # continues both.
        running.guest_frozen = True
        with suppress(StorageFull):
            save(record)
        return record, running


@dataclass(frozen=True, slots=True)
class _Found:
    """The journals of a former agent.

    Attributes:
        to_recover: sandboxes that are registered again: running, paused, being paused or resumed, or lost.
        to_remove: sandboxes whose start or removal had not ended.
        empty: names of folders without a journal.
        unreadable: names of folders whose journal cannot be read.
    """

    to_recover: list[Record]
    to_remove: list[Record]
    empty: list[str]
    unreadable: list[str]


def _read_journals(layout: Layout) -> _Found:
    found = _Found([], [], [], [])
    for directory in sorted(filter(Path.is_dir, layout.sandboxes.iterdir())):
        try:
            record = journal.load(directory)
        except InternalError as error:
            # Its cgroup and slot are found and freed without the journal. Only an agent of another version writes journals that cannot be read.
            _log.exception(
                "journal cannot be read: nothing is collected until it is repaired or its folder removed",
                extra={"sandbox_id": directory.name, "reason": error.message},
            )
            found.unreadable.append(directory.name)
            continue
        if record is None:
            found.empty.append(directory.name)
        elif record.state in (State.STARTING, State.REMOVING):
            found.to_remove.append(record)
        else:
            found.to_recover.append(record)
    return found
