"""Forks a running sandbox: copies of it, all or none, through a snapshot that exists until they run."""

from __future__ import annotations

from contextlib import ExitStack

from wrenn.base.errors import InvalidState, Unavailable, WrennError
from wrenn.base.faults import fault_point
from wrenn.base.ids import SandboxId, SnapshotId
from wrenn.base.tasks import OwnedTasks
from wrenn.control.audit import SYSTEM, Actor
from wrenn.control.auth import Credential
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.identity import lock_active_team
from wrenn.control.placement import Wanted
from wrenn.control.sandboxes import desired_state_store
from wrenn.control.sandboxes.changes import ChangeNotifier
from wrenn.control.sandboxes.lookup import Lookup, snapshot_source_of
from wrenn.control.sandboxes.operations import placement_store
from wrenn.control.sandboxes.operations.capacity import Capacity, added_usage
from wrenn.control.sandboxes.operations.waiting import WaitLimits, wait_ended, wait_started
from wrenn.control.sandboxes.reconcile.reconciler import Reconciler
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.snapshots import SnapshotLifecycle


class Forks:
    """Forks running sandboxes: takes a snapshot, starts copies from it, and removes it when all run.

    The snapshot's row is pending, under a lease, until all copies run; whoever finds the lease over takes back the copies
    with the snapshot. So a fork either was answered, or leaves nothing.
    """

    def __init__(
        self,
        *,
        database: Database,
        hints: Hints,
        lookup: Lookup,
        changes: ChangeNotifier,
        reconciler: Reconciler,
        snapshots: SnapshotLifecycle,
        capacity: Capacity,
        wait_limits: WaitLimits,
    ) -> None:
        self._database = database
        self._hints = hints
        self._lookup = lookup
        self._changes = changes
        self._reconciler = reconciler
        self._snapshots = snapshots
        self._capacity = capacity
        self._wait_limits = wait_limits
        self._tasks = OwnedTasks()

    async def close(self) -> None:
        """Stop the background tasks of requests; expired leases clean up the rest."""
        await self._tasks.close()

    async def fork(
        self, credential: Credential, text_id: str, count: int, *, lifetime_sec: int | None = None
    ) -> list[Sandbox]:
        """Make `count` copies on the same host and return them when all run. The sandbox itself keeps running.

        `lifetime_sec`: of the copies, from now; None: they end when the sandbox itself does.

        A cancellation (the client went away) takes the copies back, as nobody would know them.

        Raises:
            InvalidState: it does not run. QuotaExceeded, RateLimited, NoCapacity: there is no room for all.
            Else why one of them did not start. No copy is left.
        """
        found = await self._lookup.locate(credential, text_id)
        sandbox = found.sandbox
        if not sandbox.is_usable:
            raise InvalidState(
                f"Sandbox {sandbox.sandbox_id} is {sandbox.state_text}: only one that runs can be forked."
            )
        await self._require_capacity(sandbox, count)
        source = snapshot_source_of(sandbox, found.host)
        snapshot_id = await self._snapshots.begin(source)
        with self._snapshots.renewing_lease(snapshot_id):
            ids = [SandboxId.new() for _ in range(count)]
            try:
                await self._snapshots.take(source, snapshot_id)
                await fault_point("control.fork.after_snapshot")
                copies = await self._start(
                    sandbox, found.caller.actor, snapshot_id, ids, lifetime_sec=lifetime_sec
                )
                if not await self._snapshots.retire(snapshot_id):
                    raise Unavailable("The fork took too long and was taken back. Try again.")
            except WrennError:
                await self._remove_copies(snapshot_id, ids)
                raise
            except BaseException:
                self._tasks.start("take a fork back", self._remove_copies(snapshot_id, ids))
                raise
        await fault_point("control.fork.after_apply")
        await self._snapshots.drop(snapshot_id)
        return copies

    async def remove_abandoned_copies(self, tx: Transaction, snapshot_id: SnapshotId) -> None:
        """Stop the copies of a fork whose lease expired, in the transaction that gives up its snapshot."""
        await desired_state_store.set_desired_stopped_for_copies(tx, self._hints, snapshot_id)
        self._reconciler.wake()

    async def _require_capacity(self, sandbox: Sandbox, count: int) -> None:
        """Check for capacity before the sandbox is stopped for the snapshot; nothing is reserved."""
        await self._capacity.transaction_asking_hosts(lambda tx: self._check_capacity(tx, sandbox, count))

    async def _check_capacity(self, tx: Transaction, sandbox: Sandbox, count: int) -> None:
        wanted = Wanted(
            sandbox.image, sandbox.vcpus, sandbox.memory_mb, sandbox.disk_size_mb, sandbox.host_id, count
        )
        available = await self._capacity.lock_and_read(tx, sandbox.team_id)
        available.team.require_within_quota(
            added_usage(sandbox.vcpus, sandbox.memory_mb, count=count, new=count)
        )
        await available.choose(wanted)

    async def _start(
        self,
        sandbox: Sandbox,
        by: Actor,
        snapshot_id: SnapshotId,
        ids: list[SandboxId],
        *,
        lifetime_sec: int | None,
    ) -> list[Sandbox]:
        """Insert the copies and return them when all run."""

        async def insert(tx: Transaction) -> None:
            # The order of locks is that of creates and of the removal of a host: placement first.
            await self._check_capacity(tx, sandbox, len(ids))
            await self._snapshots.lock_lease(tx, snapshot_id)
            await lock_active_team(tx, sandbox.team_id)
            if not await placement_store.insert_copies(
                tx,
                self._hints,
                by=by,
                ids=ids,
                source=sandbox,
                snapshot_id=snapshot_id,
                lifetime_sec=lifetime_sec,
            ):
                raise InvalidState(f"Sandbox {sandbox.sandbox_id} was removed.")

        with ExitStack() as watches:
            changes = [watches.enter_context(self._changes.watch(sandbox_id)) for sandbox_id in ids]
            await self._capacity.transaction(insert)
            await fault_point("control.fork.after_insert")
            self._reconciler.wake()
            return [await wait_started(change, self._wait_limits) for change in changes]

    async def _remove_copies(self, snapshot_id: SnapshotId, ids: list[SandboxId]) -> None:
        """Remove the copies and the snapshot; the reconciler later removes what cannot be removed now."""
        await self._snapshots.retire(snapshot_id)
        with ExitStack() as watches:
            changes = {i: watches.enter_context(self._changes.watch(i)) for i in ids}
            await desired_state_store.set_desired_stopped(
                self._database, self._hints, ids, by=SYSTEM, cause="fork_failed"
            )
            self._reconciler.wake()
            for sandbox_id, change in changes.items():
                change.wake()
                try:
                    await wait_ended(change, sandbox_id)
                except Unavailable:
                    break
        await self._snapshots.drop(snapshot_id)
