"""Fork: copies of a running sandbox, all or none, through a snapshot that is kept while they start."""

from __future__ import annotations

from contextlib import ExitStack

from wrenn.base.errors import InvalidState, NoCapacity, Unavailable, WrennError
from wrenn.base.faults import fault_point
from wrenn.base.ids import SandboxId, SnapshotId
from wrenn.base.tasks import OwnedTasks
from wrenn.control.audit import SYSTEM, Actor
from wrenn.control.auth import Credential
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.hosts import Monitor
from wrenn.control.identity import hold_team
from wrenn.control.placement import Wanted
from wrenn.control.sandboxes import desired_state_store
from wrenn.control.sandboxes.changes import Changes
from wrenn.control.sandboxes.lookup import Lookup, source_of
from wrenn.control.sandboxes.operations import placement_store
from wrenn.control.sandboxes.operations.capacity import Room, more_running
from wrenn.control.sandboxes.operations.waiting import Patience, wait_ended, wait_started
from wrenn.control.sandboxes.reconcile.reconciler import Reconciler
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.snapshots import Keeper


class Forks:
    """See the module head.

    The snapshot's row is pending, under a lease, until all copies run; whoever finds the lease over takes back the copies
    with the snapshot. So a fork either was answered, or leaves nothing.
    """

    def __init__(
        self,
        *,
        database: Database,
        hints: Hints,
        lookup: Lookup,
        monitor: Monitor,
        changes: Changes,
        reconciler: Reconciler,
        keeper: Keeper,
        room: Room,
        patience: Patience,
    ) -> None:
        self._database = database
        self._hints = hints
        self._lookup = lookup
        self._monitor = monitor
        self._changes = changes
        self._reconciler = reconciler
        self._keeper = keeper
        self._room = room
        self._patience = patience
        self._tasks = OwnedTasks()

    async def close(self) -> None:
        """End what goes on behind requests; the leases' end does the rest."""
        await self._tasks.close()

    async def fork(self, credential: Credential, text_id: str, count: int) -> list[Sandbox]:
        """Make `count` copies on the same host and return them when all run. The sandbox itself goes on.

        A cancellation (the client went away) takes the copies back, as nobody would know them.

        Raises:
            InvalidState: it does not run. QuotaExceeded, RateLimited, NoCapacity: there is no room for all.
            Else why one of them did not start. No copy is left.
        """
        found = await self._lookup.locate(credential, text_id)
        sandbox = found.sandbox
        if not sandbox.is_usable:
            raise InvalidState(
                f"Sandbox {sandbox.sandbox_id} is {sandbox.now_is}: only one that runs can be forked."
            )
        await self._expect_room(sandbox, count)
        source = source_of(sandbox, found.address)
        snapshot_id = await self._keeper.begin(source)
        async with self._keeper.held(snapshot_id):
            ids = [SandboxId.new() for _ in range(count)]
            try:
                await self._keeper.take(source, snapshot_id)
                await fault_point("control.fork.after_snapshot")
                copies = await self._start(sandbox, found.caller.actor, snapshot_id, ids)
                if not await self._keeper.retire(snapshot_id):
                    raise Unavailable("The fork took too long and was taken back. Try again.")
            except WrennError:
                await self._take_back(snapshot_id, ids)
                raise
            except BaseException:
                self._tasks.start("take a fork back", self._take_back(snapshot_id, ids))
                raise
        await fault_point("control.fork.after_apply")
        await self._keeper.drop(snapshot_id)
        return copies

    async def take_back_abandoned(self, tx: Transaction, snapshot_id: SnapshotId) -> None:
        """Have the copies removed of a fork whose lease is over, in the transaction that gives up its snapshot."""
        await desired_state_store.want_copies_stopped(tx, self._hints, snapshot_id)
        self._reconciler.wake()

    async def _expect_room(self, sandbox: Sandbox, count: int) -> None:
        """Look for room before the sandbox is stopped for the snapshot; what is found is not reserved."""
        try:
            await self._room.transaction(lambda tx: self._find_room(tx, sandbox, count))
        except (NoCapacity, Unavailable):
            # What the host said may be some seconds old.
            await self._monitor.look_once()
            await self._room.transaction(lambda tx: self._find_room(tx, sandbox, count))

    async def _find_room(self, tx: Transaction, sandbox: Sandbox, count: int) -> None:
        wanted = Wanted(sandbox.image, sandbox.memory_mb, sandbox.disk_size_mb, sandbox.host_id, count)
        census = await self._room.count(tx, sandbox.team_id)
        census.team.admit(more_running(sandbox.vcpus, sandbox.memory_mb, count=count, made=count))
        census.choose(wanted)

    async def _start(
        self, sandbox: Sandbox, by: Actor, snapshot_id: SnapshotId, ids: list[SandboxId]
    ) -> list[Sandbox]:
        """Write the copies down and return them when all run."""

        async def insert(tx: Transaction) -> None:
            await self._keeper.hold(tx, snapshot_id)
            await hold_team(tx, sandbox.team_id)
            await self._find_room(tx, sandbox, len(ids))
            if not await placement_store.insert_copies(
                tx, self._hints, by=by, ids=ids, source=sandbox, snapshot_id=snapshot_id
            ):
                raise InvalidState(f"Sandbox {sandbox.sandbox_id} was removed.")

        with ExitStack() as watches:
            changes = [watches.enter_context(self._changes.watch(sandbox_id)) for sandbox_id in ids]
            await self._room.transaction(insert)
            await fault_point("control.fork.after_insert")
            self._reconciler.wake()
            return [await wait_started(change, self._patience) for change in changes]

    async def _take_back(self, snapshot_id: SnapshotId, ids: list[SandboxId]) -> None:
        """Have no copy and no snapshot left; what cannot be done now is done later."""
        await self._keeper.retire(snapshot_id)
        with ExitStack() as watches:
            changes = {i: watches.enter_context(self._changes.watch(i)) for i in ids}
            await desired_state_store.want_stopped(
                self._database, self._hints, ids, by=SYSTEM, cause="fork_failed"
            )
            self._reconciler.wake()
            for sandbox_id, change in changes.items():
                change.happened()
                try:
                    await wait_ended(change, sandbox_id)
                except Unavailable:
                    break
        await self._keeper.drop(snapshot_id)
