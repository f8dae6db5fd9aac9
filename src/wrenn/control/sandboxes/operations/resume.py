"""Resumes a sandbox: checks capacity, writes the desired state, then waits for the reconciler."""

from __future__ import annotations

from wrenn.base.errors import InvalidState, Unavailable
from wrenn.base.faults import fault_point
from wrenn.control.audit import Actor
from wrenn.control.auth import Credential
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.http import wire_time
from wrenn.control.placement import Wanted
from wrenn.control.sandboxes import desired_state_store
from wrenn.control.sandboxes.changes import ChangeNotifier
from wrenn.control.sandboxes.lookup import Lookup
from wrenn.control.sandboxes.operations.capacity import Capacity, added_usage
from wrenn.control.sandboxes.operations.invalid_state import raise_invalid_state
from wrenn.control.sandboxes.operations.waiting import (
    WaitLimits,
    wait_resumed,
    wait_settled,
)
from wrenn.control.sandboxes.reconcile.reconciler import Reconciler
from wrenn.control.sandboxes.records import OnExpiry, Sandbox
from wrenn.control.sandboxes.state import Desired, State


class Resumes:
    """Resumes paused sandboxes, for callers who ask for it and for calls to sandboxes with `auto_resume`."""

    def __init__(
        self,
        *,
        database: Database,
        hints: Hints,
        lookup: Lookup,
        changes: ChangeNotifier,
        reconciler: Reconciler,
        capacity: Capacity,
        wait_limits: WaitLimits,
    ) -> None:
        self._database = database
        self._hints = hints
        self._lookup = lookup
        self._changes = changes
        self._reconciler = reconciler
        self._capacity = capacity
        self._wait_limits = wait_limits

    async def resume(self, credential: Credential, text_id: str, *, keep_memory: bool = True) -> Sandbox:
        """Resume a paused sandbox and return it when it runs. Of several concurrent callers one succeeds.

        Without `keep_memory` it boots from its disk, also if its memory was kept.

        Raises:
            InvalidState: it is not paused, or somebody else is changing it.
            QuotaExceeded: the team has none left. NoCapacity, Unavailable: its host has no room, or does not answer. Else the host's reason. It stays paused.
        """
        found = await self._lookup.locate(credential, text_id)
        try:
            return await self._resume(found.sandbox, found.caller.actor, keep_memory=keep_memory)
        except Unavailable as error:
            if found.sandbox.stored_at is None or error.code != Unavailable.code:
                raise
            raise Unavailable(
                f"{error.message} The store has its state of {wire_time(found.sandbox.stored_at)}: if its host is lost, it can be "
                "recovered from that on another one."
            ) from error

    async def _resume(self, sandbox: Sandbox, by: Actor, *, keep_memory: bool) -> Sandbox:
        with self._changes.watch(sandbox.sandbox_id) as change:
            if not await self._set_desired_running(sandbox, by, keep_memory=keep_memory):
                await raise_invalid_state(self._database, sandbox, "only a paused one can be resumed")
            await fault_point("control.resume.after_desired")
            self._reconciler.wake()
            return await wait_resumed(change, self._wait_limits)

    async def ensure_running(
        self,
        credential: Credential,
        text_id: str,
        *,
        lifetime_sec: int,
        on_expiry: OnExpiry | None = None,
        keep_memory: bool = True,
    ) -> bool:
        """Wait for a pause or resume in progress; then resume the sandbox if it is paused. Returns whether that was necessary.

        A lifetime of `lifetime_sec` begins with the resume, and `on_expiry`, if it is not None, is done at its end; that of a
        sandbox that runs does not change.

        Raises:
            As `resume`. InvalidState: it neither runs nor is paused.
        """
        found = await self._lookup.locate(credential, text_id)
        sandbox = found.sandbox
        if sandbox.is_usable:
            return False
        was_resumed = False
        with self._changes.watch(sandbox.sandbox_id) as change:
            change.wake()
            while True:
                sandbox = await wait_settled(change, self._wait_limits)
                if sandbox.is_usable:
                    return was_resumed
                if sandbox.status is not State.PAUSED or sandbox.desired is Desired.STOPPED:
                    raise InvalidState(
                        f"Sandbox {sandbox.sandbox_id} is {sandbox.state_text}: it neither runs nor is paused."
                    )
                was_resumed |= await self._set_desired_running(
                    sandbox, found.caller.actor, lifetime_sec, on_expiry, keep_memory=keep_memory
                )
                self._reconciler.wake()
                change.wake()
                await wait_resumed(change, self._wait_limits)
                change.wake()

    async def wake_up(self, sandbox: Sandbox, by: Actor) -> Sandbox:
        """Wait for a pause or resume in progress; then resume a paused sandbox if it has `auto_resume`.

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

    async def _set_desired_running(
        self,
        sandbox: Sandbox,
        by: Actor,
        lifetime_sec: int | None = None,
        on_expiry: OnExpiry | None = None,
        *,
        keep_memory: bool = True,
    ) -> bool:
        """Check capacity and set the desired state to `running`; False: it is not paused, or is being changed already.

        Raises:
            QuotaExceeded, NoCapacity, Unavailable.
        """
        # The row counts as running by the time the host is looked at.
        wanted = Wanted(
            sandbox.image,
            sandbox.vcpus,
            sandbox.memory_mb,
            0,
            host_id=sandbox.host_id,
            count=0,
            platform=sandbox.platform,
        )

        async def want(tx: Transaction) -> bool:
            available = await self._capacity.lock_and_read(tx, sandbox.team_id)
            if not await desired_state_store.set_desired_running(
                tx,
                self._hints,
                sandbox.sandbox_id,
                by=by,
                lifetime_sec=lifetime_sec,
                on_expiry=on_expiry,
                keep_memory=keep_memory,
            ):
                return False
            available.team.require_within_quota(added_usage(sandbox.vcpus, sandbox.memory_mb))
            await available.choose(wanted)
            return True

        return await self._capacity.transaction_asking_hosts(want)
