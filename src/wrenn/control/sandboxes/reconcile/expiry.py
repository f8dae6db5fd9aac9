"""Pauses or removes sandboxes that were idle for `timeout_sec`, or whose `expires_at` has passed.

It only writes desired states (`expiry_store.py`); the reconciler carries them out, and the host decides whether a sandbox is idle. Any
number of replicas may run it.
"""

from __future__ import annotations

from wrenn.control.db import Database, Hints
from wrenn.control.sandboxes.reconcile import expiry_store


class Expiry:
    """Sets the desired state of sandboxes whose idle time or lifetime is over."""

    def __init__(self, database: Database, hints: Hints) -> None:
        self._database = database
        # Built once: it is executed with every pass of the reconciler.
        self._set_desired = expiry_store.expired_statement(hints)

    async def apply_once(self) -> float | None:
        """Set the desired state of expired sandboxes. Returns the seconds until the next one expires, 0 to be called again at once; None: none will."""
        if await expiry_store.set_desired_for_expired(self._database, self._set_desired):
            return 0.0
        next_s = await expiry_store.next_due_s(self._database)
        return None if next_s is None else max(0.0, next_s)
