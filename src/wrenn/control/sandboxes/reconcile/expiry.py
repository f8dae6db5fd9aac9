"""Puts away, or removes, what nobody used for its `timeout_sec` or what is past its `expires_at`.

It decides from the row and writes a wish; the reconciler does the rest, and the host has the last word on idleness. Any
number of replicas may do it: a row is wanted paused once.
"""

from __future__ import annotations

from wrenn.control.db import Database, Hints
from wrenn.control.sandboxes.reconcile import expiry_store


class Timeouts:
    """See the module head."""

    def __init__(self, database: Database, hints: Hints) -> None:
        self._database = database
        self._hints = hints

    async def apply_once(self) -> float | None:
        """Write the wishes that are due now. Returns in how many seconds to come again, 0: at once; None: nothing is known."""
        if await expiry_store.want_what_is_due(self._database, self._hints):
            return 0.0
        next_s = await expiry_store.next_due_s(self._database)
        return None if next_s is None else max(0.0, next_s)
