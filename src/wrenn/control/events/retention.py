"""Deletes events that are too old to be resumed from."""

from __future__ import annotations

from typing import Final

from wrenn.base.loops import Loop
from wrenn.control.db import Database, in_batches
from wrenn.control.events import store

_EVERY_S: Final = 600.0
_BATCH: Final = 5000


class Retention:
    """Deletes events that are too old to be resumed from. Any number of replicas may do it."""

    def __init__(self, database: Database, *, keep_s: float) -> None:
        self._database = database
        self._keep_s = keep_s
        self.loop = Loop("delete old events")

    async def run(self) -> None:
        """Delete old events at an interval, until cancelled."""
        await self.loop.run(self._run_once, every_s=_EVERY_S)

    async def _run_once(self) -> None:
        await store.drop_foreign(self._database)
        await self.prune_once()

    async def prune_once(self) -> int:
        """Delete what is too old now; returns how many events."""
        return await in_batches(lambda: store.prune(self._database, older_than_s=self._keep_s, most=_BATCH))
