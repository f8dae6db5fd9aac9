"""Counts what becomes of creates, and how long they take, by minutes; replicas add up in the database."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import WrennError
from wrenn.base.loops import Loop
from wrenn.control.db import Database
from wrenn.control.metrics import platform_store

RUNNING: Final = "running"
_EVERY_S: Final = 10.0
_MINUTE_S: Final = 60
_WAITING: Final = 1000
"""Counts of so many minutes and outcomes wait for a database that is away; more are lost."""


@dataclass(slots=True)
class CreateCount:
    """Creates of one minute with one outcome."""

    count: int = 0
    place_ms: int = 0
    start_ms: int = 0
    slowest_ms: int = 0


class CreateCounts:
    """Collects counts in memory and adds them to the database every ten seconds. Implements `sandboxes.CreateObserver`.

    `observe` gets the name and the seconds of each phase too.
    """

    def __init__(self, database: Database, *, observe: Callable[[str, float], None]) -> None:
        self._database = database
        self._observe = observe
        self._counts: dict[tuple[int, str], CreateCount] = {}
        self.loop = Loop("count creates")

    def created(self, *, place_s: float, start_s: float) -> None:
        """Count a sandbox that runs."""
        self._observe("place", place_s)
        self._observe("start", start_s)
        if (found := self._count(RUNNING)) is not None:
            found.count += 1
            found.place_ms += round(place_s * 1000)
            found.start_ms += round(start_s * 1000)
            found.slowest_ms = max(found.slowest_ms, round(start_s * 1000))

    def failed(self, code: str) -> None:
        """Count a create that failed."""
        if (found := self._count(code)) is not None:
            found.count += 1

    def _count(self, outcome: str) -> CreateCount | None:
        key = (int(time.time()) // _MINUTE_S * _MINUTE_S, outcome)
        if key not in self._counts and len(self._counts) >= _WAITING:
            return None
        return self._counts.setdefault(key, CreateCount())

    async def run(self) -> None:
        """Add counts to the database until cancelled, and those that are left at the end."""
        try:
            await self.loop.run(self.write, every_s=_EVERY_S)
        finally:
            with suppress(WrennError):
                await asyncio.shield(self.write())

    async def write(self) -> None:
        """Add what was counted to the database. If that fails, it is added the next time."""
        while self._counts:
            key = next(iter(self._counts))
            count = self._counts.pop(key)
            minute, outcome = key
            at = dt.datetime.fromtimestamp(minute, dt.UTC)
            try:
                await platform_store.add_creates(
                    self._database,
                    at,
                    outcome,
                    (count.count, count.place_ms, count.start_ms, count.slowest_ms),
                )
            except WrennError:
                self._put_back(key, count)
                raise

    def _put_back(self, key: tuple[int, str], count: CreateCount) -> None:
        newer = self._counts.setdefault(key, CreateCount())
        newer.count += count.count
        newer.place_ms += count.place_ms
        newer.start_ms += count.start_ms
        newer.slowest_ms = max(newer.slowest_ms, count.slowest_ms)
