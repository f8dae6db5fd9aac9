"""Changes the time limits of a sandbox at the request of a caller. What happens when they end is in `reconcile/expiry.py`."""

from __future__ import annotations

from datetime import datetime, timedelta

from wrenn.base.errors import InvalidState
from wrenn.control.auth import Credential
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.sandboxes import desired_state_store
from wrenn.control.sandboxes.lookup import Lookup
from wrenn.control.sandboxes.reconcile.reconciler import Reconciler
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.state import ENDED, Desired
from wrenn.control.sandboxes.types import SetTimeout


class TimeLimitChanges:
    """Changes when a sandbox is paused or removed automatically."""

    def __init__(
        self,
        *,
        database: Database,
        hints: Hints,
        lookup: Lookup,
        reconciler: Reconciler,
    ) -> None:
        self._database = database
        self._hints = hints
        self._lookup = lookup
        self._reconciler = reconciler

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
                raise InvalidState(f"Sandbox {sandbox.sandbox_id} is {now.state_text}.")
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
                # A client renews a lifetime each minute; entries for that would hide the actions of people.
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
        # A pause removed the lifetime. It begins again when the client renews it while the sandbox is running.
        return new if body.is_renewal and is_usable else None
    return max(expires_at, new)
