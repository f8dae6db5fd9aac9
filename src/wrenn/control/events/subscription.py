"""One subscription to the feed: a bounded queue, and the reason why it ended."""

from __future__ import annotations

import asyncio
from collections import deque
from enum import StrEnum
from typing import Final

from wrenn.control.events.records import Audience, Event

QUEUE_LIMIT: Final = 512
"""Events that wait for one reader; some hundred bytes each, shared by all who wait for them."""


class Ended(StrEnum):
    """Why a stream ended."""

    SLOW = "slow"
    """It did not take what there was: its reader comes again and gets the rest from the table."""
    REFUSED = "refused"
    """Its credential is not valid any more, or allows something else."""
    CLOSING = "closing"
    """The replica is shutting down."""


class Subscription:
    """A bounded queue of events for one stream. Filled by the feed, emptied by one stream."""

    def __init__(self, audience: Audience) -> None:
        self.audience = audience
        self.ended: Ended | None = None
        self.over = asyncio.Event()
        """Set when it ended."""
        self._waiting: deque[Event] = deque()
        self._some = asyncio.Event()

    def offer(self, event: Event) -> None:
        """Queue an event if the subscriber may see it; a full queue ends the subscription."""
        if self.ended is not None or not self.audience.sees(event):
            return
        if len(self._waiting) >= QUEUE_LIMIT:
            self.end(Ended.SLOW)
            return
        self._waiting.append(event)
        self._some.set()

    def end(self, reason: Ended) -> None:
        """End the subscription; queued events are dropped."""
        if self.ended is None:
            self.ended = reason
            self._waiting.clear()
            self._some.set()
            self.over.set()

    async def take(self, *, timeout_s: float) -> list[Event]:
        """Return the queued events as soon as there are some; nothing after `timeout_s`, or at the end."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._some.wait()
        except TimeoutError:
            return []
        taken = list(self._waiting)
        self._waiting.clear()
        if self.ended is None:
            self._some.clear()
        return taken
