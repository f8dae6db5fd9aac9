"""How much of the event loop one guest may use. All guests of a host share one loop, so none may set its pace.

Work is counted in seconds of the loop: what parsing a guest's bytes took, and a fixed price for each message that is passed on.
A guest that has used up its share is not read from until its debt is paid, so the kernel's buffers fill and its programs wait.
Nothing is refused: whoever sends more than its share is slowed down.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

GUEST_SHARE: Final = 0.4
"""The part of the loop's time that one guest may use for long."""
TOTAL_SHARE: Final = 0.5
"""The part that all guests in debt may use together; they get equal parts of it."""
BURST_S: Final = 0.25
"""Work that a guest may cause at once after a quiet time."""
MOST_AT_ONCE_S: Final = 0.05
"""Of one piece of work. What is read in one go takes some 10 ms at most."""
MOST_DEBT_S: Final = 0.5
"""What a guest may owe: it is heard again after a second or two, in any case."""
MESSAGE_COST_S: Final = 40e-6
"""Price of a message that is passed on: about what its frames, its TLS record and the tasks that it wakes take."""
BYTE_COST_S: Final = 0.25e-9
"""Price of a byte that is passed on."""


class LoopShare:
    """Who is in debt on this loop. Guests within their bursts are not affected by those in debt."""

    def __init__(self, total: float = TOTAL_SHARE) -> None:
        self._total = total
        self._until: WeakKeyDictionary[Pace, float] = WeakKeyDictionary()

    def rate(self, share: float) -> float:
        """The share that each guest in debt has now, at most `share`."""
        return min(share, self._total / max(1, len(self._until)))

    def note(self, pace: Pace, *, paid_at: float | None, now: float) -> None:
        """A guest is in debt until about `paid_at`; None: it is not."""
        if paid_at is None:
            self._until.pop(pace, None)
            return
        self._until[pace] = paid_at
        # One that has gone without paying would lower the share of the others.
        for other in [other for other, until in self._until.items() if until < now]:
            del self._until[other]


THIS_LOOP: Final = LoopShare()
"""Of this process, whose loop serves all guests."""


class Pace:
    """The account of one guest, shared by all its connections."""

    def __init__(
        self,
        *,
        share: float = GUEST_SHARE,
        burst_s: float = BURST_S,
        clock: Callable[[], float] = time.perf_counter,
        loop_share: LoopShare = THIS_LOOP,
    ) -> None:
        self._share = share
        self._burst_s = burst_s
        self._clock = clock
        self._loop_share = loop_share
        self._left_s = burst_s
        self._at = clock()
        self._is_in_debt = False

    def charge(self, work_s: float) -> None:
        """Work was done for this guest. Of what seems to be much, a part is counted: the process may have stood still meanwhile."""
        self._refill()
        self._left_s = max(self._left_s - min(work_s, MOST_AT_ONCE_S), -MOST_DEBT_S)
        if self._left_s < 0:
            self._note()

    def owed_s(self) -> float:
        """For how long nothing more should be done for this guest; 0: go on."""
        if not self._is_in_debt:
            return 0.0
        self._refill()
        if self._left_s >= 0:
            return 0.0
        return -self._left_s / self._loop_share.rate(self._share)

    async def passed(self, *, messages: int = 1, size_b: int = 0) -> None:
        """Messages were passed on: let others have their turn, and wait while the guest is in debt.

        It always yields, so that a loop that calls it for each message can be cancelled and meets its deadline.
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
"""For peers that are ours: they are given their turns, and never wait."""
