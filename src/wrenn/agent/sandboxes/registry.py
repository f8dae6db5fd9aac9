"""The registry of this host's sandboxes: runs operations on them, one at a time for each sandbox.

Each sandbox has one entry with one lock, which an operation that changes it holds. Each operation runs in its own task: a
caller that disconnects does not stop it. All callers of `ensure`, `resume` or `remove` for one id wait for the same task. A
removal kills the VMM and then cancels any other operation, so nothing that a guest does can delay it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from wrenn.agent.sandboxes import journal
from wrenn.agent.sandboxes.disk_rules import DiskLimits
from wrenn.agent.sandboxes.disk_watch import DiskWatch
from wrenn.agent.sandboxes.durability import Durability
from wrenn.agent.sandboxes.entry import Entry
from wrenn.agent.sandboxes.export_state import SavedState
from wrenn.agent.sandboxes.garbage_collector import GarbageCollector
from wrenn.agent.sandboxes.journal import NetworkSettings, Record, SandboxSpec, State
from wrenn.agent.sandboxes.operations import Operations
from wrenn.agent.sandboxes.running import GuestStream, RunningSandbox
from wrenn.agent.sandboxes.stored_snapshots import StoredSnapshots
from wrenn.agent.sandboxes.transfers import OUTGOING, Transfer
from wrenn.agent.sandboxes.vm_maintenance import VmMaintenance
from wrenn.base.errors import (
    AgentFailure,
    Conflict,
    InvalidState,
    NotFound,
    StorageFull,
    Unavailable,
    WrennError,
)
from wrenn.base.ids import ImageId, SandboxId, SnapshotId
from wrenn.base.on_failure import on_failure
from wrenn.base.steps import StepLog, step_done
from wrenn.base.tasks import OwnedTasks
from wrenn.base.units import MIB
from wrenn.linux.disk_space import free_b, total_b
from wrenn.linux.files import remove_tree
from wrenn.linux.threads import run_to_end
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.snapshots import Snapshot
from wrenn.vm import DiskRef

_log = logging.getLogger(__name__)

_DISK_FULL_B: Final = 4 * MIB
"""If a VMM cannot be saved while less than this is free, the full disk is reported as the reason: the VMM does not report one."""
_ENDED: Final = "The virtual machine ended by itself or was killed."

_MERGE_DEPTH: Final = 8
"""Disks with more layers are merged in the background. Up to this many, reads are as fast as from one layer."""

_TRANSFERS: Final = 4
"""Sandboxes that are uploaded at the same time, and as many that are fetched. Others wait."""

T = TypeVar("T")


class Sandboxes:
    """The sandboxes of this host, and the operations on them."""

    def __init__(self, *, operations: Operations, disk: DiskLimits) -> None:
        self._operations = operations
        self._layout = operations.layout
        self._disk = disk
        self._driver = operations.driver
        self._entries: dict[SandboxId, Entry] = {}
        self._unreadable: set[SandboxId] = set()
        self._tasks = OwnedTasks()
        self._work: set[asyncio.Task[Any]] = set()
        self._started_loops = False
        self._uploads = asyncio.Semaphore(_TRANSFERS)
        self._fetches = asyncio.Semaphore(_TRANSFERS)
        self.stored_snapshots = StoredSnapshots(
            operations.export_state,
            operations.fetch_snapshot,
            start_work=self._start_work,
            hold_garbage=lambda: self._garbage.held(),  # noqa: PLW0108 - it is made below
            uploads=self._uploads,
            fetches=self._fetches,
        )
        self._garbage = GarbageCollector(
            layout=operations.layout,
            bases=operations.bases,
            driver=operations.driver,
            records=lambda: [entry.record for entry in self._entries.values()],
        )
        self._durability = Durability(
            layout=operations.layout,
            disks=operations.driver.disks,
            save=self._save,
            wake_garbage=self._garbage.wake,
        )
        self._maintenance = VmMaintenance(
            data_dir=operations.layout.data_dir,
            reserve_b=disk.reserve_b,
            entries=self._entries.values,
            finish_pause=self._finish_pause,
        )
        self._disk_watch = DiskWatch(
            layout=operations.layout,
            disks=operations.driver.disks,
            limits=disk,
            entries=self._entries.values,
            on_unsuspended=self._maintenance.wake,
        )

    async def start(self, *, collect: bool) -> None:
        """Start the background loops, and with `collect` also garbage collection.

        Collect garbage only if every sandbox of a former agent was adopted: the files of an unknown one must not be removed.
        """
        self._started_loops = True
        self._tasks.start("maintain VMs", self._maintenance.run())
        self._tasks.start("watch the disk", self._disk_watch.run())
        if collect:
            await self._garbage.collect()
            self._tasks.start("collect garbage", self._garbage.run())
        else:
            self._garbage.disable()

    async def close(self) -> None:
        """Cancel operations that are under way and disconnect from all VMs, which keep running."""
        for task in self._work:
            task.cancel()
        if self._work:
            await asyncio.wait(self._work)
        await self._tasks.close()
        await self._durability.close()
        if self._started_loops:
            await self._garbage.collect()
        for entry in list(self._entries.values()):
            if entry.running is not None:
                await entry.running.release()

    def _start_work(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self._work.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            task.exception()  # all callers may have disconnected; the error is in the log (`Entry.logging_failure`)

    def _save(self, entry: Entry, record: Record) -> None:
        """Write a record, in memory first; the undo steps of an operation restore both."""
        entry.record = record
        journal.save(self._layout.sandbox(record.spec.sandbox_id), record)

    def _require_free_disk(self) -> None:
        if free_b(self._layout.data_dir) < self._disk.reserve_b:
            raise StorageFull("The disk of the host is full: no sandbox can be created until space is freed.")

    def _require_space(self, spec: SandboxSpec) -> None:
        """Return if the disk has room for this sandbox; one that is here with the same id gives way. Raises StorageFull, NoCapacity."""
        self._require_free_disk()
        others = [entry.record for key, entry in self._entries.items() if key != spec.sandbox_id]
        self._disk.require_capacity(spec, others, total_b(self._layout.data_dir))

    @contextmanager
    def _explaining_full_disk(self) -> Generator[None]:
        """Raise StorageFull instead of AgentFailure if the disk is full, which then explains why a VM was not saved."""
        try:
            yield
        except AgentFailure as error:
            if free_b(self._layout.data_dir) >= _DISK_FULL_B:
                raise
            raise StorageFull(
                "The disk of the host is full: the sandbox could not be saved. It keeps running."
            ) from error

    async def _wait_outcome(self, entry: Entry, work: asyncio.Task[T]) -> T:
        """Wait for `work` and return its result. Cancelling the caller does not cancel the work; a removal does."""
        await asyncio.wait({work})
        if work.cancelled():
            if entry.removing is not None:
                raise entry.being_removed()
            raise Unavailable("The agent of this host is stopping. Try again in some seconds.")
        if entry.removing is not None and (error := work.exception()) is not None:
            raise entry.being_removed() from error  # a consequence of the removal
        return work.result()

    async def ensure(
        self,
        spec: SandboxSpec,
        network: NetworkSettings | None = None,
        *,
        snapshot_image: ImageId | None = None,
    ) -> Record:
        """Start the sandbox with these network settings unless it exists; returns when it runs.

        `snapshot_image`: what its snapshot is in the store; it is fetched unless this host has it.

        An older generation of it is removed first: the sandbox was started elsewhere since.

        Raises:
            StaleGeneration: this host has a newer generation. Conflict: it exists with another spec. InvalidState: it is not running and not starting.
            StorageFull: the disk is below its reserve. NoCapacity: the disk is allocated to other sandboxes. Otherwise as `BringUp.run`.
        """
        network = network or NetworkSettings()
        entry = self._entries.get(spec.sandbox_id)
        if entry is not None and entry.is_older_than(spec):
            await self.remove(spec.sandbox_id)
            entry = self._entries.get(spec.sandbox_id)
        if entry is None:
            self._require_readable(spec.sandbox_id)
            self._require_space(spec)
            entry = Entry(Record(spec, State.STARTING, network=network))
            self._entries[spec.sandbox_id] = entry
            entry.starting = self._start_work(
                f"bring up {spec.sandbox_id}", self._bring_up(entry, snapshot_image)
            )
        entry.require_generation(spec.generation)
        if entry.record.spec != spec:
            raise Conflict(f"Sandbox {spec.sandbox_id} exists with other settings.")
        record = await self._started(entry)
        if network.revision > record.network.revision:  # changed while it started
            return await self.set_network(spec.sandbox_id, network)
        return record

    async def _started(self, entry: Entry) -> Record:
        if (work := entry.starting) is not None:
            # Other callers wait for the same task, so it is not cancelled with this caller.
            await asyncio.wait({work})
            if work.cancelled():
                raise InvalidState(f"Sandbox {entry.sandbox_id} was removed while it started.")
            work.result()
        if entry.removing is not None:
            raise entry.being_removed()
        if entry.record.state is not State.RUNNING:
            raise entry.not_running()
        return entry.record

    async def _bring_up(self, entry: Entry, snapshot_image: ImageId | None) -> None:
        sandbox_id = entry.sandbox_id
        with (
            on_failure(self._garbage.wake),
            on_failure(partial(self._entries.pop, sandbox_id, None)),
            entry.logging_failure("sandbox did not start"),
            entry.recording("create"),
        ):
            try:
                if snapshot_image is not None:
                    snapshot_id = SnapshotId.parse(entry.record.spec.snapshot_id)
                    await self.stored_snapshots.require(snapshot_id, snapshot_image)
                    step_done("image")
                entry.record, entry.running = await self._operations.bring_up.run(
                    entry.record.spec,
                    entry.record.network,
                    partial(self._save, entry),
                    hold_garbage=self._garbage.held,
                )
            finally:
                entry.starting = None
        self._watch(entry)

    async def pause(
        self,
        sandbox_id: SandboxId,
        *,
        idle_s: float = 0.0,
        generation: int = 0,
        keep_memory: bool = True,
        reason: str = "",
        cause: str = "",
    ) -> Record:
        """Save the sandbox and stop its VM. With `idle_s`, only if it has been idle for that long. Of one that is paused already nothing changes.

        Without `keep_memory` only its disk is saved. `reason` and `cause` are recorded if the control plane did not ask for it.

        Raises:
            NotFound: unknown. InvalidState: neither running nor paused. StaleGeneration: this host has another generation than
            `generation`, if that is not 0. Otherwise as `Pause.run`.
        """
        entry = self._known(sandbox_id)
        entry.require_generation(generation)
        if entry.record.state is State.PAUSED and entry.removing is None:
            return entry.record  # an upload may hold its lock
        pause = self._pause(entry, idle_s, keep_memory=keep_memory, reason=reason, cause=cause)
        return await self._wait_outcome(entry, self._start_work(f"pause {sandbox_id}", pause))

    async def _pause(
        self, entry: Entry, idle_s: float, *, keep_memory: bool, reason: str, cause: str
    ) -> Record:
        async with entry.locked():
            if entry.record.state is State.PAUSED:
                return entry.record
            save = partial(self._save, entry)
            if entry.record.state is State.PAUSING:
                return await self._repeat_last_steps(entry)
            if entry.record.state is not State.RUNNING or entry.running is None:
                raise entry.not_running()
            if entry.running.idle_s(self._operations.clock) < idle_s:
                return entry.record
            # Before calls are refused: a pause just before this one may have to be flushed first.
            await self._durability.ensure(entry)
            if entry.running.idle_s(self._operations.clock) < idle_s:
                return entry.record
            await self._stop_merge(entry)
            with (
                entry.logging_failure("sandbox not paused"),
                self._explaining_full_disk(),
                entry.recording("pause"),
            ):
                entry.record = await self._operations.pause.run(
                    entry.record,
                    entry.running,
                    save,
                    keep_memory=keep_memory,
                    reason=reason,
                    cause=cause,
                )
            return self._paused(entry)

    async def _finish_pause(self, entry: Entry) -> None:
        """Repeat the last steps of a pause that failed after the snapshot was published."""
        async with entry.locked():
            if entry.record.state is State.PAUSING:
                await self._repeat_last_steps(entry)

    async def _repeat_last_steps(self, entry: Entry) -> Record:
        save = partial(self._save, entry)
        entry.record = await self._operations.pause.finish(entry.record, entry.running, save)
        return self._paused(entry)

    def _paused(self, entry: Entry) -> Record:
        entry.running = None
        self._durability.begin(entry)
        return entry.record

    async def resume(self, sandbox_id: SandboxId, *, generation: int = 0, keep_memory: bool = True) -> Record:
        """Restore a paused sandbox; returns when it runs. Without `keep_memory` it boots from its disk, also if its memory was saved.

        Raises:
            NotFound: unknown. InvalidState: neither paused nor running. StaleGeneration: as `pause`. Otherwise as `Resume.run`.
        """
        entry = self._known(sandbox_id)
        entry.require_generation(generation)
        if entry.starting is None and entry.record.state is not State.RUNNING:
            self._require_free_disk()
            await self._stop_upload(entry)
        if entry.starting is None and entry.record.state is not State.RUNNING:
            entry.starting = self._start_work(
                f"resume {sandbox_id}", self._resume(entry, keep_memory=keep_memory)
            )
        return await self._started(entry)

    async def _resume(self, entry: Entry, *, keep_memory: bool) -> None:
        with on_failure(self._garbage.wake), entry.logging_failure("sandbox not resumed"):
            try:
                async with entry.locked():
                    if entry.record.state is State.RUNNING:
                        return
                    if entry.record.state is not State.PAUSED:
                        raise entry.not_running()
                    save = partial(self._save, entry)
                    with entry.recording("resume"):
                        entry.record, entry.running = await self._operations.resume.run(
                            entry.record, save, keep_memory=keep_memory
                        )
            finally:
                entry.starting = None
        self._watch(entry)

    async def store(
        self, sandbox_id: SandboxId, image_id: ImageId, *, generation: int = 0, wait_s: float = 0.0
    ) -> Transfer:
        """Begin to upload a paused sandbox as this image, or join the upload, and return its state after at most `wait_s`.

        Its end is returned once; the next call begins again. A resume and a removal cancel it, a change of its network or disk, a snapshot, and
        a call with another image.

        Raises:
            NotFound: unknown. StaleGeneration: as `pause`.
        """
        entry = self._known(sandbox_id)
        entry.require_generation(generation)
        while (transfer := entry.transfer) is not None and transfer.image_id != image_id:
            await self._stop_transfer(entry)
        if transfer is None:
            transfer = entry.transfer = Transfer(image_id)
            transfer.task = self._start_work(
                f"store {sandbox_id}", transfer.run(self._store(entry, transfer))
            )
        await transfer.wait(wait_s)
        if transfer.is_done and entry.transfer is transfer:
            entry.transfer = None
        return transfer

    async def _store(self, entry: Entry, transfer: Transfer) -> None:
        with entry.logging_failure("sandbox not stored"):
            # In this order: one that waits for its sandbox takes no place from others.
            async with entry.locked(), self._uploads:
                if entry.record.state is not State.PAUSED:
                    raise entry.not_running()
                transfer.sent_b = await self._operations.export_state.run(
                    SavedState.of_paused(entry.record),
                    transfer.image_id,
                    self._layout.sandbox(entry.sandbox_id) / OUTGOING,
                    transfer.report,
                )

    async def _stop_upload(self, entry: Entry) -> None:
        """Make way for an operation on a paused sandbox: an upload, which takes up to an hour, holds its lock. The next one sends what is lacking."""
        if entry.starting is None:  # else it is a fetch
            await self._stop_transfer(entry)

    async def _stop_transfer(self, entry: Entry) -> None:
        if (transfer := entry.transfer) is not None:
            await transfer.cancel()
            if entry.transfer is transfer:
                entry.transfer = None

    async def adopt_stored(
        self,
        spec: SandboxSpec,
        image_id: ImageId,
        network: NetworkSettings | None = None,
        *,
        wait_s: float = 0.0,
    ) -> Transfer:
        """Begin to fetch a sandbox of another host as this image and adopt it, paused, or join that, and return its state after at most `wait_s`.

        One that is here with this generation is a success, once it survives a power cut. An older generation of it is removed first, once it is known that there is
        room and that the store has the sandbox. A failure is returned to those
        who wait for it; the next call begins again.

        Raises:
            StaleGeneration: this host has a newer generation. InvalidState: it is neither paused nor running.
            StorageFull: the disk is below its reserve. NoCapacity: the disk is allocated to other sandboxes.
        """
        entry = self._entries.get(spec.sandbox_id)
        if entry is not None and entry.is_older_than(spec):
            self._require_space(spec)
            await self._operations.adopt_state.require_adoptable(spec, image_id)
            entry = self._entries.get(spec.sandbox_id)
            if entry is not None and entry.is_older_than(spec):
                await self.remove(spec.sandbox_id)
            entry = self._entries.get(spec.sandbox_id)
        if entry is None:
            self._require_readable(spec.sandbox_id)
            self._require_space(spec)
            entry = Entry(Record(spec, State.STARTING, network=network or NetworkSettings()))
            self._entries[spec.sandbox_id] = entry
            transfer = entry.transfer = Transfer(image_id)
            name = f"adopt {spec.sandbox_id}"
            entry.starting = transfer.task = self._start_work(
                name, transfer.run(self._adopt(entry, transfer))
            )
        entry.require_generation(spec.generation)
        if (transfer := entry.transfer) is not None and entry.starting is not None:
            await transfer.wait(wait_s)
            return transfer
        if entry.record.state not in (State.PAUSED, State.RUNNING):
            raise entry.not_running()
        if entry.record.state is State.PAUSED:
            # A former agent may have ended before it did that, and the source is removed after this answer.
            await self._durability.flush(entry.record.snapshot, is_urgent=True)
            await self._durability.save_journal(entry)
        return Transfer(image_id)

    async def _adopt(self, entry: Entry, transfer: Transfer) -> None:
        sandbox_id = entry.sandbox_id
        with (
            on_failure(self._garbage.wake),
            on_failure(partial(self._entries.pop, sandbox_id, None)),
            entry.logging_failure("sandbox not adopted"),
        ):
            try:
                async with self._fetches:
                    entry.record = await self._operations.adopt_state.run(
                        entry.record.spec,
                        entry.record.network,
                        transfer.image_id,
                        save=partial(self._save, entry),
                        progress=transfer.report,
                        hold_garbage=self._garbage.held,
                    )
            finally:
                entry.starting = entry.transfer = None

    async def set_network(self, sandbox_id: SandboxId, network: NetworkSettings) -> Record:
        """Apply newer network settings, which persist across pause and resume. Not undone when the caller is cancelled.

        Raises:
            NotFound: unknown. InvalidState: it has ended. Otherwise as `SetNetwork.run`.
        """
        entry = self._known(sandbox_id)
        change = self._start_work(f"set network of {sandbox_id}", self._set_network(entry, network))
        return await self._wait_outcome(entry, change)

    async def _set_network(self, entry: Entry, network: NetworkSettings) -> Record:
        if (work := entry.starting) is not None:
            await asyncio.wait({work})
        await self._stop_upload(entry)
        async with entry.locked():
            if self._entries.get(entry.sandbox_id) is not entry:
                raise NotFound(f"Sandbox {entry.sandbox_id} is not on this host.")
            before = entry.record
            with (
                on_failure(partial(setattr, entry, "record", before)),
                entry.logging_failure("network settings not changed"),
            ):
                entry.record = await self._operations.set_network.run(
                    before, network, partial(self._save, entry)
                )
            if entry.record.state is State.PAUSED:  # a paused sandbox must survive a power cut
                await self._durability.save_journal(entry)
            return entry.record

    async def set_disk(self, sandbox_id: SandboxId, disk_mb: int) -> Record:
        """Enlarge the disk; returns when a running guest sees it. A paused sandbox gets it when it is resumed.

        A sandbox that was suspended for using up its share continues if the larger share has space. Not undone when cancelled.

        Raises:
            NotFound: unknown. StorageFull: it is still suspended. NoCapacity: the host's disk is allocated to other sandboxes.
            Otherwise as `SetDisk`.
        """
        entry = self._known(sandbox_id)
        change = self._start_work(f"set disk of {sandbox_id}", self._set_disk(entry, disk_mb))
        return await self._wait_outcome(entry, change)

    async def _set_disk(self, entry: Entry, disk_mb: int) -> Record:
        others = [other.record for other in self._entries.values() if other is not entry]
        wanted = replace(entry.record.spec, disk_mb=disk_mb)
        self._disk.require_capacity(wanted, others, total_b(self._layout.data_dir))
        await self._stop_upload(entry)
        async with entry.locked():
            entry.record = self._operations.set_disk.record_size(
                entry.record, disk_mb, partial(self._save, entry)
            )
            if entry.record.state is State.PAUSED:  # a paused sandbox must survive a power cut
                await self._durability.save_journal(entry)
                return entry.record
        if entry.running is not None and entry.running.suspend_reason:
            await self._disk_watch.check()
        async with entry.locked():
            running = entry.require_running()
            if running.suspend_reason:
                raise StorageFull(running.suspend_reason)
            with entry.logging_failure("disk not made larger"):
                await self._operations.set_disk.apply(entry.record, running)
            return entry.record

    async def ensure_snapshot(
        self, sandbox_id: SandboxId, snapshot_id: SnapshotId, *, keep_memory: bool = True
    ) -> Snapshot:
        """Take and pin a snapshot of a running or paused sandbox, whose state does not change. Idempotent.

        Without `keep_memory` only the disk of a running one is saved; that of a paused one is what the pause has saved.

        Raises:
            NotFound: unknown. InvalidState: neither running nor paused. Otherwise as `TakeSnapshot`.
        """
        if (found := self._find_and_pin(sandbox_id, str(snapshot_id))) is not None:
            return found
        entry = self._known(sandbox_id)
        taking = self._take_snapshot(entry, str(snapshot_id), keep_memory=keep_memory)
        return await self._wait_outcome(entry, self._start_work(f"snapshot {sandbox_id}", taking))

    async def _take_snapshot(self, entry: Entry, snapshot_id: str, *, keep_memory: bool) -> Snapshot:
        self._require_free_disk()
        await self._stop_upload(entry)
        async with entry.locked():
            if (found := self._find_and_pin(entry.sandbox_id, snapshot_id)) is not None:
                return found  # another call was quicker
            try:
                with entry.logging_failure("snapshot not taken"), self._explaining_full_disk():
                    if entry.record.state is State.PAUSED:
                        await self._operations.snapshot.of_paused(entry.record, snapshot_id)
                    else:
                        running = entry.require_running()
                        await self._stop_merge(entry)
                        save = partial(self._save, entry)
                        await self._operations.snapshot.of_running(
                            entry.record, running, snapshot_id, save, keep_memory=keep_memory
                        )
                        self._merge_if_deep(entry)
            finally:
                self._garbage.wake()  # removes an unused layer that an interrupted snapshot left
        found = snapshots.find(self._layout.snapshots, snapshot_id)
        self._tasks.start(f"flush {snapshot_id}", self._durability.flush(snapshot_id))
        return found

    def _find_and_pin(self, sandbox_id: SandboxId, snapshot_id: str) -> Snapshot | None:
        """Return the snapshot of this id after pinning it, or None. Raises Conflict if it is of another sandbox."""
        try:
            found = snapshots.find(self._layout.snapshots, snapshot_id)
        except NotFound:
            return None
        if found.manifest.sandbox_id != str(sandbox_id):
            raise Conflict(f"{snapshot_id} is a snapshot of another sandbox.")
        found.pin()
        return found

    @asynccontextmanager
    async def paused_disk(self, sandbox_id: SandboxId) -> AsyncGenerator[tuple[DiskRef, int]]:
        """Provide the disk of a paused sandbox and its size in bytes. Until the end it is not resumed and its layers stay.

        A removal of the sandbox cancels the calling task.

        Raises:
            NotFound: unknown. InvalidState: not paused. DamagedSnapshot: its manifest or disk is not what was saved.
        """
        entry = self._known(sandbox_id)
        async with entry.locked():
            if entry.record.state is not State.PAUSED:
                raise InvalidState(f"Sandbox {sandbox_id} is {entry.record.state}, not paused.")
            manifest = snapshots.find(self._layout.snapshots, entry.record.snapshot).manifest
            disks = self._driver.disks
            for seal in manifest.layers:
                await run_to_end(partial(disks.check, seal))
            promised_b = manifest.disk_mb * MIB or disks.image_size_b(manifest.base)
            size_b = disks.size_b(manifest.layer_ids[0])
            # The size is a field that the VMM wrote.
            if not 0 < size_b <= promised_b:
                raise DamagedSnapshot(f"The disk of sandbox {sandbox_id} is damaged.")
            yield DiskRef(manifest.layer_ids, manifest.base), size_b

    def templates_in_use(self) -> set[str] | None:
        """Return the templates of which a sandbox, a snapshot, or a base in preparation is. None: not all references are known."""
        return self._garbage.templates_in_use()

    def collect_garbage(self) -> None:
        """Have files removed that are not referenced any more, soon."""
        self._garbage.wake()

    async def layers_of(self, snapshot: Snapshot) -> dict[str, int]:
        """Return the bytes on disk of each frozen layer of the snapshot's disk, by id."""
        measure = self._driver.disks.allocated_b
        ids = snapshot.manifest.layer_ids
        return await asyncio.to_thread(lambda: {layer_id: measure(layer_id) for layer_id in ids})

    def remove_snapshot(self, snapshot_id: SnapshotId) -> None:
        """Unpin a snapshot; its files are removed when nothing references them. An unknown id is ignored."""
        snapshots.unpin(self._layout.snapshots, str(snapshot_id))
        self._garbage.wake()

    def list_snapshots(self) -> list[Snapshot]:
        """Return the pinned snapshots, without those whose manifest is damaged."""
        return list(snapshots.pinned_snapshots(self._layout.snapshots))

    def list_snapshot_ids(self) -> list[str]:
        """Return the ids of the pinned snapshots, also of damaged ones; their manifests are not read."""
        root = self._layout.snapshots
        return [name for name in snapshots.snapshot_ids(root) if snapshots.is_pinned(root, name)]

    def adopt(self, record: Record, running: RunningSandbox | None) -> None:
        """Register a sandbox of a former agent; `running` is None if it has no VM."""
        entry = Entry(record, running)
        self._entries[record.spec.sandbox_id] = entry
        if running is not None:
            self._watch(entry)
        if record.snapshot and record.state in (State.PAUSED, State.RUNNING):
            directory = self._layout.sandbox(entry.sandbox_id)
            if not (record.is_flushed and journal.names_durably(directory, record.snapshot)):
                self._durability.begin(entry)

    def _watch(self, entry: Entry) -> None:
        if entry.running is not None:
            name = f"watch {entry.sandbox_id}"
            self._tasks.start(name, self._wait_end(entry, entry.running))
            self._merge_if_deep(entry)

    def _merge_if_deep(self, entry: Entry) -> None:
        merges = self._driver.capabilities.merges_layers
        if merges and entry.running is not None and len(entry.record.layers) > _MERGE_DEPTH:
            name = f"merge layers of {entry.sandbox_id}"
            entry.merging = self._tasks.start(name, self._merge(entry, entry.running))

    async def _merge(self, entry: Entry, running: RunningSandbox) -> None:
        try:
            await running.vm.merge_layers()
        except (WrennError, TimeoutError) as error:
            fields = {"sandbox_id": str(entry.sandbox_id), "reason": str(error)}
            _log.warning("layers are not merged", extra=fields)
            return
        if entry.running is running and entry.record.state is State.RUNNING:
            with suppress(
                StorageFull
            ):  # the record then refers to more layers than needed, which is harmless
                self._save(entry, replace(entry.record, layers=entry.record.layers[:1]))
            self._garbage.wake()

    async def _stop_merge(self, entry: Entry) -> None:
        if entry.merging is not None:
            entry.merging.cancel()
            await asyncio.wait({entry.merging})
            entry.merging = None

    async def _wait_end(self, entry: Entry, running: RunningSandbox) -> None:
        await running.vm.wait_exit()
        async with entry.lock:
            # A pause or removal may have ended it, and it may be running again.
            ended_on_purpose = entry.removing is not None or entry.record.state is not State.RUNNING
            if ended_on_purpose or entry.running is not running:
                return
            fields = {"sandbox_id": str(entry.sandbox_id)}
            _log.warning("sandbox lost", extra={**fields, "vmm_log": running.vm.log_tail()})
            entry.running = None  # it does not run, whatever fails below
            try:
                with suppress(WrennError, OSError, TimeoutError):  # tried again when it is resumed or removed
                    await running.vm.kill()  # what it has on the host ends with it
                await self._operations.record_vm_exit(
                    entry.record, running, partial(self._save, entry), reason=_ENDED
                )
            finally:
                await running.release()  # also if the agent ends meanwhile
        self._garbage.wake()

    async def remove(self, sandbox_id: SandboxId, *, generation: int = 0) -> None:
        """Remove the sandbox and all its resources, and cancel a start that is under way. An unknown id is ignored.

        Raises:
            StaleGeneration: this host has a newer generation than `generation`, if that is not 0.
        """
        entry = self._entries.get(sandbox_id)
        if entry is None:
            if sandbox_id in self._unreadable:
                await run_to_end(partial(remove_tree, self._operations.layout.sandbox(sandbox_id)))
                self._unreadable.discard(sandbox_id)
            return
        if generation < entry.record.spec.generation:
            entry.require_generation(generation)
        if entry.removing is None:
            entry.removing = self._start_work(f"remove {sandbox_id}", self._remove(entry))
        removing = entry.removing
        await asyncio.wait({removing})
        if removing.cancelled():
            raise Unavailable("The agent of this host is stopping. The sandbox is removed when it is back.")
        removing.result()

    async def _remove(self, entry: Entry) -> None:
        # After a failure, the next call tries again.
        with (
            on_failure(partial(setattr, entry, "removing", None)),
            entry.logging_failure("sandbox not removed"),
        ):
            if (task := entry.starting) is not None:
                task.cancel()
                await asyncio.wait({task})
            if entry.running is not None:
                entry.running.being_removed = True
            if entry.lock_holder is not None:
                # The VMM first: an operation that waits for the guest or the VMM then ends.
                if entry.running is not None:
                    await entry.running.vm.kill()
                entry.cancel_operation()
            async with entry.lock:
                if self._entries.get(entry.sandbox_id) is entry:
                    await self._tear_down(entry)
        self._garbage.wake()

    async def _tear_down(self, entry: Entry) -> None:
        if (merging := entry.merging) is not None:
            merging.cancel()  # it ends with the VMM
        if entry.record.state is not State.REMOVING:
            entry.record = entry.record.with_state(State.REMOVING)
        async with entry.durable_lock:  # nothing is written into the folder that is being removed
            await self._operations.tear_down.run(entry.record, entry.running)
        if merging is not None:
            await asyncio.wait({merging})
        entry.running = None
        del self._entries[entry.sandbox_id]

    def _known(self, sandbox_id: SandboxId) -> Entry:
        entry = self._entries.get(sandbox_id)
        if entry is None:
            self._require_readable(sandbox_id)
            raise NotFound(f"Sandbox {sandbox_id} is not on this host.")
        return entry

    def _require_readable(self, sandbox_id: SandboxId) -> None:
        if sandbox_id in self._unreadable:
            raise InvalidState(
                f"The journal of sandbox {sandbox_id} on its host cannot be read: it must be repaired there."
            )

    def get(self, sandbox_id: SandboxId) -> RunningSandbox:
        """Return the running sandbox. Calls in it must be made within `use`.

        Raises:
            NotFound: unknown. InvalidState: not running.
        """
        entry = self._known(sandbox_id)
        if entry.removing is not None:
            raise entry.being_removed()
        return entry.require_running()

    @asynccontextmanager
    async def use(self, sandbox_id: SandboxId) -> AsyncGenerator[RunningSandbox]:
        """Make a call in the running sandbox. It counts as activity, and a pause waits for it.

        Raises:
            NotFound: unknown. InvalidState: not running, or the call was cut off by a pause.
        """
        async with self.get(sandbox_id).use(self._operations.clock) as running:
            yield running

    @asynccontextmanager
    async def observe(self, sandbox_id: SandboxId) -> AsyncGenerator[RunningSandbox]:
        """Make a short call in the running sandbox that only looks: it is no activity, and a pause cuts it off.

        Raises:
            as `use`.
        """
        async with self.get(sandbox_id).observe(self._operations.clock) as running:
            yield running

    @asynccontextmanager
    async def open_stream(
        self, sandbox_id: SandboxId, *, counts_as_active: bool = True
    ) -> AsyncGenerator[GuestStream]:
        """Open a caller's stream to a program in the running sandbox. A pause ends it. Without `counts_as_active` opening it is no use of it.

        Raises:
            as `use`.
        """
        running = self.get(sandbox_id)
        async with running.open_stream(self._operations.clock, counts_as_active=counts_as_active) as stream:
            yield stream

    def inspect(self, sandbox_id: SandboxId) -> tuple[Record, RunningSandbox | None]:
        """Return the record of a sandbox and, if it runs, its VM. Raises NotFound."""
        entry = self._known(sandbox_id)
        return entry.record, entry.running

    def steps(self, sandbox_id: SandboxId) -> StepLog:
        """Return the steps of the last create, pause or resume of a sandbox, as far as it is done. Raises NotFound."""
        return self._known(sandbox_id).steps

    def note_unreadable(self, sandbox_ids: Collection[SandboxId]) -> None:
        """Take these sandboxes, whose journals cannot be read, as known: nothing is done with them until they are removed or the agent restarts."""
        self._unreadable |= set(sandbox_ids)

    def unreadable(self) -> list[SandboxId]:
        """Return the sandboxes whose journals cannot be read."""
        return sorted(self._unreadable, key=str)

    def list(self) -> list[tuple[Record, RunningSandbox | None]]:
        """Return the record and, if running, the VM of each sandbox."""
        return [(entry.record, entry.running) for entry in self._entries.values()]
