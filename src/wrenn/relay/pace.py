"""Limits the event loop time that one guest may use. All guests of a host share one loop, so none may monopolize it.

Work is counted in seconds of the loop: the time it took to parse a guest's bytes, and a fixed price for each
message that is forwarded. A guest that has used up its share is not read from until its debt is paid, so the
kernel's buffers fill and its programs block. Nothing is refused: a guest that sends more than its share
allows is slowed down.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

GUEST_SHARE: Final = 0.4
"""The fraction of the loop's time that one guest may use in the long run."""
TOTAL_SHARE: Final = 0.5
"""The fraction that all guests in debt may use together, in equal parts."""
BURST_S: Final = 0.25
"""Loop time that a guest may use at once after it has been idle."""
MOST_AT_ONCE_S: Final = 0.05
"""Upper limit for one piece of work. What is read in one go takes about 10 ms at most."""
MOST_DEBT_S: Final = 0.5
"""Upper limit on a guest's debt, so that it is served again after a second or two in any case."""
MESSAGE_COST_S: Final = 40e-6
"""Price of a forwarded message: about the cost of its frames, its TLS record and the tasks that it wakes."""
BYTE_COST_S: Final = 0.25e-9
"""Price of a forwarded byte."""


class LoopShare:
    """The guests in debt on this loop, who share `TOTAL_SHARE`. Guests within their bursts are not affected."""

    def __init__(self, total: float = TOTAL_SHARE) -> None:
        self._total = total
        self._until: WeakKeyDictionary[Pace, float] = WeakKeyDictionary()

    def rate(self, share: float) -> float:
        """The share that each guest in debt has now, at most `share`."""
        return min(share, self._total / max(1, len(self._until)))

    def note(self, pace: Pace, *, paid_at: float | None, now: float) -> None:
        """Record that a guest will be in debt until about `paid_at`, or with None that it is not in debt."""
        if paid_at is None:
            self._until.pop(pace, None)
            return
        self._until[pace] = paid_at
        # A guest whose connections ended while it was in debt would lower the share of the others.
        for other in [other for other, until in self._until.items() if until < now]:
            del self._until[other]


THIS_LOOP: Final = LoopShare()
"""The share of this process, whose loop serves all guests."""


class Pace:
    """The account of one guest, shared by all its connections."""

    def __init__(
        self,
        *,
        share: float = GUEST_SHARE,
        burst_s: float = BURST_S,
        clock: Callable[[], float] | None = None,
        loop_share: LoopShare = THIS_LOOP,
    ) -> None:
        self._share = share
        self._burst_s = burst_s
        self._clock = clock or time.perf_counter
        self._loop_share = loop_share
        self._left_s = burst_s
        self._at = self._clock()
        self._is_in_debt = False

    def charge(self, work_s: float) -> None:
        """Charge the guest for work. At most `MOST_AT_ONCE_S` is counted, because the process may have been suspended meanwhile."""
        self._refill()
        self._left_s = max(self._left_s - min(work_s, MOST_AT_ONCE_S), -MOST_DEBT_S)
        if self._left_s < 0:
            self._note()

    def owed_s(self) -> float:
        """Return how long the guest has to wait before more work is done for it; 0 if it need not wait."""
        if not self._is_in_debt:
            return 0.0
        self._refill()
        if self._left_s >= 0:
            return 0.0
        return -self._left_s / self._loop_share.rate(self._share)

    async def passed(self, *, messages: int = 1, size_b: int = 0) -> None:
        """Charge for forwarded messages, yield to other tasks, and wait while the guest is in debt.

        It always yields, so that a loop that calls it for each message can be cancelled and meets its
        deadline.
        """
        self.charge(messages * MESSAGE_COST_S + size_b * BYTE_COST_S)
        await asyncio.sleep(self.owed_s())

    def _refill(self) -> None:
        now = self._clock()
        rate = self._loop_share.rate(self._share) if self._is_in_debt else self._share
        self._left_s = min(self._burst_s, self._left_s + (now - self._at) * rate)
        self._at = now
        if self._is_in_debt:
            self._note()

    def _note(self) -> None:
        self._is_in_debt = self._left_s < 0
        paid_at = self._at - self._left_s / self._loop_share.rate(self._share) if self._is_in_debt else None
        self._loop_share.note(self, paid_at=paid_at, now=self._at)


UNPACED: Final = Pace(share=1000.0, loop_share=LoopShare(1000.0))
"""For trusted peers: other tasks get their turns, but the peer never waits."""
