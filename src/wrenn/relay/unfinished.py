"""Messages of WebSockets that have begun and are not whole: counted over all connections of the process, and not waited for for ever.

A message is held until it is whole. One of the longest that is allowed is no harm; a thousand connections with one each are. So what
is beyond the first bytes comes out of one budget, and a connection that finds it used up is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from wrenn.base.units import KIB, MIB

FREE_B: Final = 256 * KIB
"""Of each connection that are not counted: most messages are shorter."""
BUDGET_B: Final = 256 * MIB
UNFINISHED_TIMEOUT_S: Final = 120.0
"""From the moment when a message is longer than `FREE_B` until it is whole."""
FRAGMENT_B: Final = 64
"""What a fragment costs beside its bytes."""


class MessageBudget:
    """What all unfinished messages of a process may take together."""

    def __init__(self, limit_b: int = BUDGET_B) -> None:
        self._limit_b = limit_b
        self.held_b = 0

    def take(self, size_b: int) -> bool:
        """Count so much more (or less); False: there is not so much left, and nothing was counted."""
        if size_b > 0 and self.held_b + size_b > self._limit_b:
            return False
        self.held_b += size_b
        return True


OF_THIS_PROCESS: Final = MessageBudget()


class Unfinished:
    """The unfinished message of one connection; `cut` is called when it is too much or takes too long."""

    def __init__(self, cut: Callable[[], None], budget: MessageBudget = OF_THIS_PROCESS) -> None:
        self._cut = cut
        self._budget = budget
        self._counted_b = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_cut = False

    def is_now(self, size_b: int) -> None:
        """So long is what is held of it."""
        counted_b = max(0, size_b - FREE_B)
        if counted_b == self._counted_b or self._is_cut:
            return
        if not self._budget.take(counted_b - self._counted_b):
            self._end()
            return
        self._counted_b = counted_b
        if counted_b and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(UNFINISHED_TIMEOUT_S, self._end)
        elif not counted_b:
            self._stop_timer()

    def _end(self) -> None:
        self._is_cut = True
        self._stop_timer()
        # At once: else others, too, would find no room until the connection is gone.
        self._budget.take(-self._counted_b)
        self._counted_b = 0
        self._cut()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
