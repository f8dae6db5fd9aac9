"""Deletes samples of sandboxes and counts of creates that are too old."""

from __future__ import annotations

from typing import Final

from wrenn.base.loops import Loop
from wrenn.control.db import Database, in_batches
from wrenn.control.metrics import platform_store, sample_store

_EVERY_S: Final = 600.0
_BATCH: Final = 2000
SAMPLE_RETENTION_S: Final = 30 * 86_400.0
"""How long the samples of a sandbox stay that is paused or has ended."""


class SampleRetention:
    """Deletes samples that are too old at an interval. Any number of replicas may do it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.loop = Loop("delete old samples")

    async def run(self) -> None:
        """Delete old samples at an interval, until cancelled."""
        await self.loop.run(self._delete_old, every_s=_EVERY_S)

    async def _delete_old(self) -> None:
        await in_batches(
            lambda: sample_store.delete_old(self._database, older_s=SAMPLE_RETENTION_S, most=_BATCH)
        )
        await platform_store.delete_creates(self._database, older_s=SAMPLE_RETENTION_S)
