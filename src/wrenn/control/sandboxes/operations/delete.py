"""Removes sandboxes: writes the desired state, then waits for the reconciler."""

from __future__ import annotations

from collections.abc import Collection

from wrenn.base.faults import fault_point
from wrenn.base.ids import HostId, SandboxId, TeamId
from wrenn.control.audit import Actor
from wrenn.control.auth import Credential
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.sandboxes import desired_state_store
from wrenn.control.sandboxes.changes import ChangeNotifier
from wrenn.control.sandboxes.lookup import Lookup
from wrenn.control.sandboxes.operations.waiting import (
    wait_ended,
)
from wrenn.control.sandboxes.reconcile.reconciler import Reconciler
from wrenn.control.sandboxes.state import ENDED


class Deletions:
    """Removes single sandboxes, and all of a team or host that is deleted."""

    def __init__(
        self,
        *,
        database: Database,
        hints: Hints,
        lookup: Lookup,
        changes: ChangeNotifier,
        reconciler: Reconciler,
    ) -> None:
        self._database = database
        self._hints = hints
        self._lookup = lookup
        self._changes = changes
        self._reconciler = reconciler

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

    @staticmethod
    async def active_on_host(tx: Transaction, host_id: HostId) -> list[SandboxId]:
        """Return the sandboxes of a host that have not ended, paused ones too."""
        return await desired_state_store.active_on_host(tx, host_id)

    @staticmethod
    async def count_started_on_host(tx: Transaction, host_id: HostId) -> int:
        """Count the sandboxes whose files or memory a host should have."""
        return await desired_state_store.count_started_on_host(tx, host_id)

    async def end_all_on_hosts(self, tx: Transaction, host_ids: Collection[HostId], by: Actor) -> None:
        """Record that all sandboxes of these hosts have ended, which are deleted in this transaction. Call `wake` after the commit."""
        await desired_state_store.end_on_hosts(tx, self._hints, host_ids, by=by)

    def wake(self) -> None:
        """Wake the reconciler, and whoever in this process waits for a sandbox."""
        self._reconciler.wake()
        self._changes.notify_all()
