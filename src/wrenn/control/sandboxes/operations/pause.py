"""Pauses a sandbox: writes the desired state, then waits for the reconciler."""

from __future__ import annotations

from wrenn.base.faults import fault_point
from wrenn.control.auth import Credential
from wrenn.control.db import Database, Hints
from wrenn.control.sandboxes import desired_state_store
from wrenn.control.sandboxes.changes import ChangeNotifier
from wrenn.control.sandboxes.lookup import Lookup
from wrenn.control.sandboxes.operations.invalid_state import raise_invalid_state
from wrenn.control.sandboxes.operations.waiting import (
    WaitLimits,
    wait_paused,
)
from wrenn.control.sandboxes.reconcile.reconciler import Reconciler
from wrenn.control.sandboxes.records import Sandbox


class Pauses:
    """Pauses running sandboxes."""

    def __init__(
        self,
        *,
        database: Database,
        hints: Hints,
        lookup: Lookup,
        changes: ChangeNotifier,
        reconciler: Reconciler,
        wait_limits: WaitLimits,
    ) -> None:
        self._database = database
        self._hints = hints
        self._lookup = lookup
        self._changes = changes
        self._reconciler = reconciler
        self._wait_limits = wait_limits

    async def pause(self, credential: Credential, text_id: str, *, keep_memory: bool = True) -> Sandbox:
        """Pause a running sandbox and return it when it is paused. Of several concurrent callers one succeeds.

        Without `keep_memory` only its disk is kept, and it boots when it is resumed.

        Raises:
            InvalidState: it does not run, or somebody else is changing it. Else the host's reason; it runs on.
        """
        found = await self._lookup.locate(credential, text_id)
        sandbox, by = found.sandbox, found.caller.actor
        with self._changes.watch(sandbox.sandbox_id) as change:
            if not await desired_state_store.set_desired_paused(
                self._database, self._hints, sandbox.sandbox_id, by=by, keep_memory=keep_memory
            ):
                await raise_invalid_state(self._database, sandbox, "only one that runs can be paused")
            await fault_point("control.pause.after_desired")
            self._reconciler.wake()
            return await wait_paused(change, self._wait_limits)
