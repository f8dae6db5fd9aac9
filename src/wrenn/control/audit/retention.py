"""Forgets entries of the audit log that are older than the installation wants to keep."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from wrenn.control.audit import store
from wrenn.control.db import Database

_log = logging.getLogger(__name__)

_EVERY_S: Final = 3600.0
_BATCH: Final = 1000
"""Rows in one transaction, so that no lock is held for long."""
_PAUSE_S: Final = 0.05


class Retention:
    """See the module head. `days` 0: everything is kept. Any number of replicas may do it."""

    def __init__(self, database: Database, *, days: int) -> None:
        self._database = database
        self._days = days

    async def run(self) -> None:
        """Forget until cancelled."""
        while True:
            try:
                await self.expire_once()
            except Exception:  # noqa: BLE001 - the loop must go on; what failed is tried again
                _log.exception("old entries of the audit log could not be deleted")
            await asyncio.sleep(_EVERY_S)

    async def expire_once(self) -> int:
        """Forget what is too old now; how many entries that was."""
        if self._days == 0:
            return 0
        gone = 0
        while batch := await store.expire(self._database, days=self._days, most=_BATCH):
            gone += batch
            await asyncio.sleep(_PAUSE_S)
        return gone
