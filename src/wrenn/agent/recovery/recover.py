"""Compare the journals with the machine, once, before the agent serves."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.agent.confinement import release_cgroup
from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes import Record, RunningSandbox, Sandboxes, State, Verbs, journal
from wrenn.agent.sandboxes.checks import check_whole
from wrenn.agent.sandboxes.launch import Save
from wrenn.agent.sandboxes.pause import let_guest_go
from wrenn.agent.tokens import Tokens
from wrenn.base.errors import InternalError, NotFound, StorageFull
from wrenn.guest import GuestConnection
from wrenn.linux import cgroups
from wrenn.linux.files import remove_tree
from wrenn.linux.process import kill_and_wait
from wrenn.network import Slots
from wrenn.storage import snapshots
from wrenn.storage.damage import DamagedSnapshot
from wrenn.vm import VmDriver, VmHandle

_log = logging.getLogger(__name__)

LOST_REASON: Final = "The virtual machine ended while the agent was down."
_KILL_TIMEOUT_S: Final = 10.0


@contextmanager
def _logging(event: str, name: str) -> Generator[None]:
    """One sandbox that cannot be cleaned up must not keep the agent from serving the others."""
    try:
        yield
    except Exception:  # noqa: BLE001 - whatever it is, the rest goes on; `wrenn doctor` lists what is left
        _log.exception(event, extra={"sandbox_id": name})


@dataclass(frozen=True, slots=True)
class Recovery:
    """What it takes to bring agent and machine into agreement."""

    layout: Layout
    driver: VmDriver
    slots: Slots
    tokens: Tokens
    sandboxes: Sandboxes
    verbs: Verbs

    async def run(self) -> None:
        """Afterwards everything named after this block has an owner, and the collector removes what is wanted no more."""
        found = _read_journals(self.layout)
        records = (*found.kept, *found.unfinished)
        # Without a journal nobody knows what a VMM is for; it must end before its network is swept.
        names = {str(record.spec.sandbox_id) for record in records}
        for name in cgroups.children(self.layout.cgroup_root):
            if name not in names:
                with _logging("orphan is not removed", name):
                    await release_cgroup(self.layout, name)
        await self.slots.start({r.slot: str(r.spec.sandbox_id) for r in records if r.slot is not None})
        self.verbs.bases.sweep()
        for draft in snapshots.drafts_in(self.layout.snapshots):
            remove_tree(draft)
        for name in found.unreadable:
            with _logging("folder is not removed", name):
                remove_tree(self.layout.sandboxes / name)
        for record in found.unfinished:
            with _logging("sandbox is not taken down", str(record.spec.sandbox_id)):
                await self.verbs.tear_down.run(record, None)
                continue
            # Known and to be removed: the control plane's next call goes on with it.
            self.sandboxes.adopt(replace(record, state=State.REMOVING), None)
        for record in found.kept:
            with _logging("sandbox is not adopted", str(record.spec.sandbox_id)):
                self.sandboxes.adopt(*await self._settled(record))
        _log.info(
            "recovered",
            extra={"adopted": len(found.kept), "removed": len(found.unfinished) + len(found.unreadable)},
        )

    async def _settled(self, record: Record) -> tuple[Record, RunningSandbox | None]:
        """What a sandbox of a former agent is now: a half-done pause or resume is finished or taken back."""
        save = partial(journal.save, self.layout.sandbox(record.spec.sandbox_id))
        if record.state is State.PAUSING:
            if self._exists(record.snapshot):
                return await self.verbs.pause.finish(record, None, save), None
            former = record.former_snapshot
            record = replace(record.moved(State.RUNNING), snapshot=former, former_snapshot="")
        if record.state is State.RESUMING:
            if record.process is not None:
                await kill_and_wait(record.process, timeout_s=_KILL_TIMEOUT_S)
            return await self.verbs.pause.release(record.moved(State.PAUSED), save), None
        if record.state is State.PAUSED:
            return self._whole(record, save), None
        if record.state is State.RUNNING:
            return await self._adopted(record, save)
        return record, None

    def _exists(self, snapshot_id: str) -> bool:
        try:
            snapshots.find(self.layout.snapshots, snapshot_id)
        except (NotFound, DamagedSnapshot):
            return False
        return True

    def _whole(self, record: Record, save: Save) -> Record:
        """After a power cut the last snapshot may be torn; then the one before is taken if that is whole."""
        try:
            check_whole(self.layout, record.snapshot)
        except (NotFound, DamagedSnapshot) as error:
            former = record.former_snapshot
            try:
                check_whole(self.layout, former)
            except (NotFound, DamagedSnapshot):
                record = record.moved(State.LOST, reason=f"What was saved of it is damaged. {error.message}")
            else:
                reason = (
                    "Its last pause was not whole after a power cut. This is what it was at the pause before."
                )
                record = replace(record, snapshot=former, former_snapshot="", reason=reason)
            _log.exception("paused sandbox is damaged", extra={"sandbox_id": str(record.spec.sandbox_id)})
            with suppress(StorageFull):
                save(record)
        return record

    async def _adopted(self, record: Record, save: Save) -> tuple[Record, RunningSandbox | None]:
        directory = self.layout.sandbox(record.spec.sandbox_id)
        vm = None
        if record.process is not None:
            vm = await self.driver.adopt(VmHandle(record.process, directory))
        if vm is None:
            return await self.verbs.lose(record, None, save, reason=LOST_REASON), None
        assert record.slot is not None, "a running sandbox has a slot"
        address = str(self.layout.block.address(record.slot))
        token = self.tokens.of(str(record.spec.sandbox_id))
        running = RunningSandbox(vm, address, token, GuestConnection(address, token), record.started_at)
        if record.next_layer:
            # The former agent died while it put a layer over the others: the VM knows whether it did.
            with _logging("layer is not known", str(record.spec.sandbox_id)):
                layers = record.layers
                if await vm.overlay() == record.next_layer:
                    layers = (record.next_layer, *layers)
                record = replace(record, layers=layers, next_layer="")
        # It may also have died while the VM, or the guest's programs, stood still.
        with _logging("VM does not go on", str(record.spec.sandbox_id)):
            await vm.thaw()
            await let_guest_go(running)
        with suppress(StorageFull):
            save(record)
        return record, running


@dataclass(frozen=True, slots=True)
class _Found:
    kept: list[Record]
    unfinished: list[Record]
    unreadable: list[str]


def _read_journals(layout: Layout) -> _Found:
    found = _Found([], [], [])
    for directory in sorted(filter(Path.is_dir, layout.sandboxes.iterdir())):
        try:
            record = journal.load(directory)
        except InternalError as error:
            # Its cgroup and slot are found and freed without it; only a rebuilt agent of another version writes such.
            _log.exception(
                "journal cannot be read", extra={"sandbox_id": directory.name, "reason": error.message}
            )
            record = None
        if record is None:
            found.unreadable.append(directory.name)
        elif record.state in (State.STARTING, State.REMOVING):
            found.unfinished.append(record)
        else:
            found.kept.append(record)
    return found
