"""Starts a sandbox whose host is lost on another host, from what the store has of it (docs/design/moves.md)."""

from __future__ import annotations

from datetime import datetime

from wrenn.base.errors import FilesLost, InvalidState
from wrenn.base.faults import fault_point
from wrenn.base.ids import HostId
from wrenn.control.audit import AuditAction, Resource, Status, record
from wrenn.control.auth import Caller, Credential
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.hosts import Host, HostStatus
from wrenn.control.http import wire_time
from wrenn.control.sandboxes import desired_state_store
from wrenn.control.sandboxes.changes import ChangeNotifier
from wrenn.control.sandboxes.lookup import Lookup
from wrenn.control.sandboxes.operations.capacity import Capacity, added_usage
from wrenn.control.sandboxes.operations.invalid_state import raise_invalid_state
from wrenn.control.sandboxes.operations.move import choose_target
from wrenn.control.sandboxes.operations.waiting import WaitLimits, wait_moved, wait_resumed
from wrenn.control.sandboxes.reconcile.reconciler import Reconciler
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.state import State


class Recoveries:
    """Recovers sandboxes of lost hosts."""

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

    async def recover(self, credential: Credential, text_id: str) -> tuple[Sandbox, datetime]:
        """Start a sandbox on another host; returns it when it runs, and when the state was saved from which it goes on.

        What happened since is lost: when its host is back, it removes its copy.

        Raises:
            InvalidState: its host is not lost, the store has nothing of it, or somebody is changing it.
            NoCapacity, QuotaExceeded: no host can take it. Else the reason why it was not started; it stays on its host then, paused.
        """
        found = await self._lookup.locate(credential, text_id)
        sandbox = found.sandbox
        with self._changes.watch(sandbox.sandbox_id) as change:
            begun = await self._capacity.transaction_asking_hosts(
                lambda tx: self._begin(tx, sandbox, found.caller)
            )
            if begun is None:
                await raise_invalid_state(
                    self._database, sandbox, "only one that is paused or missing can be recovered"
                )
            await fault_point("control.recover.after_desired")
            self._reconciler.wake()
            target, saved_at = begun
            await wait_moved(change, target, self._wait_limits)
            return await wait_resumed(change, self._wait_limits), saved_at

    async def _begin(self, tx: Transaction, found: Sandbox, caller: Caller) -> tuple[HostId, datetime] | None:
        """Choose the target and write it down; return it, and when the state was saved. None: it cannot be recovered now."""
        admission = await self._capacity.lock_and_read(tx, found.team_id)
        locked = await desired_state_store.lock(tx, found.sandbox_id)
        assert locked is not None, "rows are kept"
        sandbox, _ = locked
        if sandbox.is_moving or sandbox.status not in (State.PAUSED, State.MISSING):
            return None
        _require_lost(sandbox, await admission.find_host(sandbox.host_id))
        if sandbox.stored_at is None:
            raise InvalidState(
                f"The store has no state of sandbox {sandbox.sandbox_id}: only its host has it."
            )
        if sandbox.status is State.PAUSED:
            admission.team.require_within_quota(added_usage(sandbox.vcpus, sandbox.memory_mb))
        target = await choose_target(admission, sandbox, None, caller, resumes=True)
        if not await desired_state_store.set_recovering(
            tx, self._hints, sandbox.sandbox_id, sandbox.host_id, target.host_id, by=caller.actor
        ):
            return None
        saved_at = wire_time(sandbox.stored_at)
        assert saved_at is not None, "looked at"
        action = AuditAction(Resource.SANDBOX, "recover", Status.WARNING, facts={"saved_at": saved_at})
        await record(tx, sandbox.team_id, caller.actor, action, str(sandbox.sandbox_id))
        return target.host_id, sandbox.stored_at


def _require_lost(sandbox: Sandbox, host: Host | None) -> None:
    if sandbox.failure == FilesLost.code:
        return
    if host is not None and host.status is not HostStatus.UNREACHABLE:
        raise InvalidState(
            f"The host of sandbox {sandbox.sandbox_id} is not lost: resume the sandbox, or move it to another host."
        )
