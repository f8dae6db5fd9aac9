"""Deletes entries of the audit log that are older than the installation keeps."""

from __future__ import annotations

from typing import Final

from wrenn.base.tasks import repeat
from wrenn.control.audit import store
from wrenn.control.db import Database, in_batches

_EVERY_S: Final = 3600.0
_BATCH: Final = 1000
"""Rows in one transaction, so that no lock is held for long."""


class Retention:
    """Deletes entries of the audit log that are older than `days`. `days` 0: everything is kept. Any number of replicas may do it."""

    def __init__(self, database: Database, *, days: int) -> None:
        self._database = database
        self._days = days

    async def run(self) -> None:
        """Delete old entries at an interval, until cancelled."""
        await repeat(
            self.expire_once, every_s=_EVERY_S, failed="old entries of the audit log could not be deleted"
        )

    async def expire_once(self) -> int:
        """Delete what is too old now; returns how many entries."""
        if self._days == 0:
            return 0
        return await in_batches(lambda: store.expire(self._database, days=self._days, most=_BATCH))
