"""Forgets events that nobody will ask for any more."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from wrenn.control.db import Database
from wrenn.control.events import store

_log = logging.getLogger(__name__)

_EVERY_S: Final = 600.0
_BATCH: Final = 5000
_PAUSE_S: Final = 0.05


class Retention:
    """See the module head. Any number of replicas may do it."""

    def __init__(self, database: Database, *, keep_s: float) -> None:
        self._database = database
        self._keep_s = keep_s

    async def run(self) -> None:
        """Forget until cancelled."""
        while True:
            try:
                await store.drop_foreign(self._database)
                await self.prune_once()
            except Exception:  # noqa: BLE001 - the loop must go on; what failed is tried again
                _log.exception("old events could not be deleted")
            await asyncio.sleep(_EVERY_S)

    async def prune_once(self) -> int:
        """Forget what is too old now; how many that was."""
        gone = 0
        while batch := await store.prune(self._database, older_than_s=self._keep_s, most=_BATCH):
            gone += batch
            await asyncio.sleep(_PAUSE_S)
        return gone
