"""Reads new events once for a whole replica and hands them to its subscriptions.

It reads when a trigger has notified, at most once in `_COALESCE_S`, and by a timer; not at all while nobody reads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from wrenn.base.errors import RateLimited, Unavailable
from wrenn.base.ids import TeamId
from wrenn.base.loops import Loop
from wrenn.control.db import Database
from wrenn.control.events import store
from wrenn.control.events.records import Audience, Event, Position
from wrenn.control.events.subscription import Ended, Subscription
from wrenn.control.identity import OwnerShare

_log = logging.getLogger(__name__)

_BATCH: Final = 500
_COALESCE_S: Final = 0.01
_UNSETTLED_S: Final = 0.02
"""When an event waits for a transaction that began before it: ours end within milliseconds."""
_TIMER_S: Final = 2.0
"""When no notification comes: its connection may be broken."""
_AFTER_FAILURE_S: Final = 0.5
_IN_REPLICA: Final = 1000
"""Streams that one replica serves: each holds a connection, a task, and at most its queue."""
_OF_TEAM: Final = 100
"""Of these, of one team."""
_OF_OWNER: Final = 200
"""Of these, of all teams of one owner."""


class Feed:
    """Reads new events from the database and hands them to the streams of this replica."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._owners = OwnerShare(
            database, limit=_OF_OWNER, what="event streams", scarce_from=_IN_REPLICA // 2
        )
        self._position = Position(0, 0)
        self._readers: dict[TeamId, set[Subscription]] = {}
        self._count = 0
        self._reading = asyncio.Lock()
        self.loop = Loop("read events")
        self._anybody = asyncio.Event()
        self._closed = False

    def wake(self, _payload: str = "") -> None:
        """Read new events soon."""
        self.loop.wake()

    def subscriptions(self) -> list[Subscription]:
        """All subscriptions."""
        return [subscription for readers in self._readers.values() for subscription in readers]

    def close(self) -> None:
        """End all streams, and refuse new ones."""
        self._closed = True
        for subscription in self.subscriptions():
            subscription.end(Ended.CLOSING)

    @asynccontextmanager
    async def subscribe(self, audience: Audience) -> AsyncGenerator[tuple[Subscription, Position]]:
        """Subscribe to events after a position, which is returned with the subscription.

        Raises:
            RateLimited: the team, its owner's teams together, or the replica, has too many. Unavailable: the replica is shutting down.
        """
        async with self._owners.taken(audience.team_id):
            async with self._reading:
                self._require_capacity(audience.team_id)
                if self._count == 0:
                    self._position = await store.now(self._database)
                subscription, position = Subscription(audience), self._position
                self._readers.setdefault(audience.team_id, set()).add(subscription)
                self._count += 1
                self._anybody.set()
            try:
                yield subscription, position
            finally:
                self._remove(subscription)

    def _require_capacity(self, team_id: TeamId) -> None:
        if self._closed:
            raise Unavailable("This replica is shutting down. Try again.")
        if len(self._readers.get(team_id, ())) >= _OF_TEAM:
            raise RateLimited(f"The team has {_OF_TEAM} event streams open here: close one.")
        if self._count >= _IN_REPLICA:
            raise RateLimited(f"There are {_IN_REPLICA} event streams open here. Try again later.")

    def _remove(self, subscription: Subscription) -> None:
        team_id = subscription.audience.team_id
        readers = self._readers[team_id]
        readers.discard(subscription)
        if not readers:
            del self._readers[team_id]
        self._count -= 1
        if self._count == 0:
            self._anybody.clear()
            self.loop.clear_error()

    async def run(self) -> None:
        """Read new events until cancelled."""
        while True:
            await self._anybody.wait()
            wait_s = await self.loop.attempt(self._read_once, otherwise=_AFTER_FAILURE_S)
            if wait_s > _UNSETTLED_S:
                await self.loop.wait(wait_s)
                wait_s = _COALESCE_S
            await asyncio.sleep(wait_s)

    async def _read_once(self) -> float:
        """Read and distribute new events; returns in how many seconds to read again."""
        async with self._reading:
            if self._count == 0:
                return _TIMER_S
            found, unsettled = await store.read(self._database, self._position, limit=_BATCH)
            for event in found:
                self._hand_out(event)
            self._position = store.last_of(found, self._position)
        if len(found) == _BATCH:
            return 0.0
        return _UNSETTLED_S if unsettled else _TIMER_S

    def _hand_out(self, event: Event) -> None:
        for subscription in self._readers.get(event.team_id, ()):
            subscription.offer(event)
