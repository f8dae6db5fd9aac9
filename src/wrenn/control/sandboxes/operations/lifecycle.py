"""Pauses, resumes and deletes sandboxes: writes the desired state, then waits for the reconciler."""

from __future__ import annotations

from datetime import datetime, timedelta

from wrenn.base.errors import InvalidState, NoCapacity, Unavailable
from wrenn.base.faults import fault_point
from wrenn.base.ids import TeamId
from wrenn.control.audit import Actor
from wrenn.control.auth import Credential
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.hosts import Monitor
from wrenn.control.placement import Wanted
from wrenn.control.sandboxes import desired_state_store, store
from wrenn.control.sandboxes.changes import ChangeNotifier
from wrenn.control.sandboxes.lookup import Lookup
from wrenn.control.sandboxes.operations.capacity import Capacity, added_usage
from wrenn.control.sandboxes.operations.waiting import (
    WaitLimits,
    wait_ended,
    wait_paused,
    wait_resumed,
    wait_settled,
)
from wrenn.control.sandboxes.reconcile.reconciler import Reconciler
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.state import ENDED, Desired, State
from wrenn.control.sandboxes.types import SetTimeout


class Lifecycle:
    """Pauses, resumes and deletes sandboxes and changes their time limits.

    A call writes the desired state and waits until the reconciler has carried it out.
    """

    def __init__(
        self,
        *,
        database: Database,
        hints: Hints,
        lookup: Lookup,
        monitor: Monitor,
        changes: ChangeNotifier,
        reconciler: Reconciler,
        capacity: Capacity,
        wait_limits: WaitLimits,
    ) -> None:
        self._database = database
        self._hints = hints
        self._lookup = lookup
        self._monitor = monitor
        self._changes = changes
        self._reconciler = reconciler
        self._capacity = capacity
        self._wait_limits = wait_limits

    async def pause(self, credential: Credential, text_id: str) -> Sandbox:
        """Pause a running sandbox and return it when it is paused. Of several concurrent callers one succeeds.

        Raises:
            InvalidState: it does not run, or somebody else is changing it. Else the host's reason; it runs on.
        """
        found = await self._lookup.locate(credential, text_id)
        sandbox, by = found.sandbox, found.caller.actor
        with self._changes.watch(sandbox.sandbox_id) as change:
            if not await desired_state_store.set_desired_paused(
                self._database, self._hints, sandbox.sandbox_id, by=by
            ):
                await self._refuse(sandbox, "only one that runs can be paused")
            await fault_point("control.pause.after_desired")
            self._reconciler.wake()
            return await wait_paused(change, self._wait_limits)

    async def resume(self, credential: Credential, text_id: str) -> Sandbox:
        """Resume a paused sandbox and return it when it runs. Of several concurrent callers one succeeds.

        Raises:
            InvalidState: it is not paused, or somebody else is changing it.
            QuotaExceeded: the team has none left. NoCapacity, Unavailable: its host has no room, or does not answer. Else the host's reason. It stays paused.
        """
        found = await self._lookup.locate(credential, text_id)
        sandbox = found.sandbox
        with self._changes.watch(sandbox.sandbox_id) as change:
            if not await self._set_desired_running(sandbox, found.caller.actor):
                await self._refuse(sandbox, "only a paused one can be resumed")
            await fault_point("control.resume.after_desired")
            self._reconciler.wake()
            return await wait_resumed(change, self._wait_limits)

    async def wake_up(self, sandbox: Sandbox, by: Actor) -> Sandbox:
        """Wait for a pause or resume in progress; then resume a paused sandbox if it has `auto_resume`.

        Waits for a pause or resume under way; then, with `auto_resume`, resumes it if it is paused.

        Raises:
            As `resume`.
        """
        with self._changes.watch(sandbox.sandbox_id) as change:
            change.wake()
            while True:
                sandbox = await wait_settled(change, self._wait_limits)
                if (
                    sandbox.status is not State.PAUSED
                    or sandbox.desired is Desired.STOPPED
                    or not sandbox.auto_resume
                ):
                    return sandbox
                if await self._set_desired_running(sandbox, by):
                    self._reconciler.wake()
                change.wake()
                resumed = await wait_resumed(change, self._wait_limits)
                if resumed.is_usable:
                    return resumed

    async def _set_desired_running(self, sandbox: Sandbox, by: Actor) -> bool:
        """Check capacity and set the desired state to `running`; False: it is not paused, or is being changed already.

        Raises:
            QuotaExceeded, NoCapacity, Unavailable.
        """
        wanted = Wanted(sandbox.image, sandbox.memory_mb, 0, host_id=sandbox.host_id)

        async def want(tx: Transaction) -> bool:
            available = await self._capacity.lock_and_read(tx, sandbox.team_id)
            if not await desired_state_store.set_desired_running(tx, self._hints, sandbox.sandbox_id, by=by):
                return False
            available.team.admit(added_usage(sandbox.vcpus, sandbox.memory_mb))
            available.choose(wanted)
            return True

        try:
            return await self._capacity.transaction(want)
        except (NoCapacity, Unavailable):
            # What the host said may be some seconds old.
            await self._monitor.look_once()
            return await self._capacity.transaction(want)

    async def _refuse(self, sandbox: Sandbox, rule: str) -> None:
        now = await store.load(self._database, sandbox.sandbox_id) or sandbox
        raise InvalidState(f"Sandbox {sandbox.sandbox_id} is {now.now_is}: {rule}.")

    async def delete(self, credential: Credential, text_id: str) -> None:
        """Remove a sandbox; returns when nothing of it is left. Does nothing if it has ended.

        Raises:
            Unavailable: its host does not answer; it will be removed when the host is back.
        """
        found = await self._lookup.locate(credential, text_id)
        sandbox = found.sandbox
        if sandbox.status in ENDED:
            return
        with self._changes.watch(sandbox.sandbox_id) as change:
            await desired_state_store.set_desired_stopped(
                self._database, self._hints, [sandbox.sandbox_id], by=found.caller.actor
            )
            await fault_point("control.delete.after_desired")
            self._reconciler.wake()
            await wait_ended(change, sandbox.sandbox_id)

    async def remove_all(self, tx: Transaction, team_id: TeamId, by: Actor) -> None:
        """Stop all sandboxes of a team that is deleted in this transaction. Wake the reconciler after the commit."""
        await desired_state_store.set_desired_stopped_for_team(tx, self._hints, team_id, by=by)

    async def set_timeout(self, credential: Credential, text_id: str, body: SetTimeout) -> Sandbox:
        """Change the time limits of a sandbox. This does not count as activity.

        Raises:
            InvalidState: it has ended, or is being removed.
        """
        found = await self._lookup.locate(credential, text_id)
        sandbox = found.sandbox

        async def change(tx: Transaction) -> Sandbox:
            locked = await desired_state_store.lock(tx, sandbox.sandbox_id)
            assert locked is not None, "rows are kept"
            now, at = locked
            if now.status in ENDED or now.desired is Desired.STOPPED:
                raise InvalidState(f"Sandbox {sandbox.sandbox_id} is {now.now_is}.")
            if body.is_renewal and not now.lift_on_pause:
                return now
            lifts = body.lift_on_pause and body.lifetime_sec != 0
            if lifts is None:
                lifts = now.lift_on_pause and body.lifetime_sec is None
            return await desired_state_store.write_limits(
                tx,
                self._hints,
                sandbox.sandbox_id,
                timeout_sec=now.timeout_sec if body.timeout_sec is None else body.timeout_sec,
                expires_at=new_expiry(now.expires_at, at, body, is_usable=now.is_usable),
                on_expiry=body.on_expiry or now.on_expiry,
                lift_on_pause=lifts,
                # One each minute that a client lives would bury what people did.
                by=None if body.is_renewal else found.caller.actor,
            )

        changed = await self._database.transaction(change)
        self._reconciler.wake()
        return changed


def new_expiry(
    expires_at: datetime | None, now: datetime, body: SetTimeout, *, is_usable: bool = True
) -> datetime | None:
    """Compute when the lifetime ends after this request; None: never."""
    if body.lifetime_sec is None:
        return expires_at
    if body.lifetime_sec == 0:
        return None
    new = now + timedelta(seconds=body.lifetime_sec)
    if not body.extend_only:
        return new
    if expires_at is None:
        # Removed by a pause, it begins anew once the sandbox runs again and its client still lives.
        return new if body.is_renewal and is_usable else None
    return max(expires_at, new)
