"""Records when API keys were last used: noted in memory by requests, written in the background at most once a minute a key."""

from __future__ import annotations

import asyncio
from typing import Final

from wrenn.base.clock import Clock
from wrenn.base.errors import DatabaseUnavailable
from wrenn.base.ids import KeyId
from wrenn.base.loops import Loop
from wrenn.control.auth.store import set_last_used
from wrenn.control.db import Database

_WRITE_EVERY_S: Final = 60.0


class LastUsed:
    """Collects the uses of API keys in memory and writes them in the background, at most once a minute a key."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._written: dict[KeyId, float] = {}
        self._due: set[KeyId] = set()
        self._some_due = asyncio.Event()
        self.loop = Loop("write last use of keys")

    def note(self, key_id: KeyId) -> None:
        """Note that this key was used now."""
        if self._clock.monotonic() - self._written.get(key_id, -_WRITE_EVERY_S) >= _WRITE_EVERY_S:
            self._due.add(key_id)
            self._some_due.set()

    async def run(self) -> None:
        """Write the noted uses, until cancelled."""
        while True:
            await self._some_due.wait()
            self._some_due.clear()
            await self.loop.attempt(self._write_due, otherwise=None)

    async def _write_due(self) -> None:
        due, self._due = self._due, set()
        now = self._clock.monotonic()
        self._written = {k: t for k, t in self._written.items() if now - t < _WRITE_EVERY_S}
        self._written.update(dict.fromkeys(due, now))
        try:
            await set_last_used(self._database, due)
        except DatabaseUnavailable:
            # The next use notes it again; a missing time of use is no loss.
            for key_id in due:
                self._written.pop(key_id, None)
            raise
