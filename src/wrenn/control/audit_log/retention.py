"""Deletes entries of the audit log that are older than the installation keeps."""

from __future__ import annotations

from typing import Final

from wrenn.base.loops import Loop
from wrenn.control.audit_log import store
from wrenn.control.db import Database, in_batches

_EVERY_S: Final = 3600.0
_BATCH: Final = 1000
"""Rows in one transaction, so that no lock is held for long."""


class Retention:
    """Deletes entries of the audit log that are older than `days`. `days` 0: everything is kept. Any number of replicas may do it."""

    def __init__(self, database: Database, *, days: int) -> None:
        self._database = database
        self._days = days
        self.loop = Loop("delete old audit entries")

    async def run(self) -> None:
        """Delete old entries at an interval, until cancelled."""
        await self.loop.run(self._run_once, every_s=_EVERY_S)

    async def _run_once(self) -> None:
        await self.expire_once()

    async def expire_once(self) -> int:
        """Delete what is too old now; returns how many entries."""
        if self._days == 0:
            return 0
        return await in_batches(lambda: store.expire(self._database, days=self._days, most=_BATCH))
