"""Takes samples of what all teams have, adds them up, and deletes old ones; one replica at a time."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from wrenn.base.errors import WrennError
from wrenn.base.loops import Loop
from wrenn.control.db import Database, LoopLease, in_batches
from wrenn.control.metrics import team_store

SAMPLE_EVERY_S: Final = 10.0
_LEASE_S: Final = 30.0
_LONGEST_S: Final = 60.0
"""A sample stands for the time since the one before; after a longer gap only for so long."""
_SETTLED_S: Final = 30.0
"""A bucket is closed so long after its end: no sample of it is being written any more."""
_ROLL_UP_EVERY: Final = 6
_CLEAN_EVERY: Final = 60
_BATCH: Final = 20_000
SAMPLES_S: Final = team_store.FINE_SPAN_S + 3600.0
USAGE_S: Final = 60 * 86_400.0


class TeamSampler:
    """Takes a sample every ten seconds if this replica has the lease. What it deletes, it deletes in batches."""

    def __init__(self, database: Database, *, owner: str, every_s: float = SAMPLE_EVERY_S) -> None:
        self._database = database
        self._lease = LoopLease(database, "sample teams", owner=owner, lease_s=_LEASE_S)
        self._every_s = every_s
        self._runs = 0
        self.loop = Loop("sample teams")

    async def run(self) -> None:
        """Take samples until cancelled; then another replica may go on at once."""
        try:
            await self.loop.run(self.sample_once, every_s=self._every_s)
        finally:
            with suppress(WrennError):  # without a database the lease runs out
                await self._lease.give_back()

    async def sample_once(self) -> None:
        """Take a sample, unless another replica does that."""
        if not await self._lease.take():
            return
        await team_store.take_samples(self._database, longest_s=_LONGEST_S)
        if self._runs % _ROLL_UP_EVERY == 0:
            await team_store.roll_up(self._database, settled_s=_SETTLED_S)
        if self._runs % _CLEAN_EVERY == 0:
            await self.delete_old()
        self._runs += 1

    async def delete_old(self) -> None:
        """Delete samples and buckets that are too old."""
        database = self._database
        await in_batches(lambda: team_store.delete_samples(database, older_s=SAMPLES_S, most=_BATCH))
        await in_batches(lambda: team_store.delete_usage(database, older_s=USAGE_S, most=_BATCH))
