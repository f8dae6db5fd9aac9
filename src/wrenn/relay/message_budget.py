"""Limits the memory that incomplete WebSocket messages take, over all connections of the process, and their duration.

A message is buffered until it is complete. One message of the greatest size is harmless, but not one on each
of a thousand connections. So bytes beyond the first `FREE_B` of a message count against a budget of the
process, and when it is used up, the connection whose message is incomplete for the longest time is closed. Whoever
holds messages back can thus not keep others from sending theirs: a message is cut only if it takes longer than the
whole budget takes to be filled anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from wrenn.base.units import KIB, MIB

FREE_B: Final = 256 * KIB
"""Bytes of each connection that are not counted: most messages are shorter."""
BUDGET_B: Final = 256 * MIB
UNFINISHED_TIMEOUT_S: Final = 120.0
"""From the moment when a message exceeds `FREE_B` until it is complete."""
FRAGMENT_B: Final = 64
"""Overhead of a fragment besides its bytes."""


class MessageBudget:
    """What all incomplete messages of a process may take together."""

    def __init__(self, limit_b: int = BUDGET_B) -> None:
        self._limit_b = limit_b
        self.held_b = 0
        # In the order in which they began to be counted.
        self._holders: dict[IncompleteMessage, None] = {}

    def take(self, message: IncompleteMessage, size_b: int) -> bool:
        """Count `size_b` more bytes of a message (fewer if negative), and cut older messages if they exceed the budget.

        Returns False, and counts nothing, if there is no older message.
        """
        while size_b > 0 and self.held_b + size_b > self._limit_b:
            oldest = next(iter(self._holders), message)
            if oldest is message:
                return False
            oldest.end()
        self.held_b += size_b
        self._holders[message] = None
        return True

    def release(self, message: IncompleteMessage, size_b: int) -> None:
        """Count a message of `size_b` bytes no more."""
        self.held_b -= size_b
        self._holders.pop(message, None)


PROCESS_BUDGET: Final = MessageBudget()


class IncompleteMessage:
    """The incomplete message of one connection. Calls `cut` when it exceeds the budget or takes too long."""

    def __init__(self, cut: Callable[[], None], budget: MessageBudget = PROCESS_BUDGET) -> None:
        self._cut = cut
        self._budget = budget
        self._counted_b = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_cut = False

    def set_size(self, size_b: int) -> None:
        """Report the number of bytes that are buffered now."""
        counted_b = max(0, size_b - FREE_B)
        if counted_b == self._counted_b or self._is_cut:
            return
        if not counted_b:
            self._release()
            return
        if not self._budget.take(self, counted_b - self._counted_b):
            self.end()
            return
        self._counted_b = counted_b
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(UNFINISHED_TIMEOUT_S, self.end)

    def end(self) -> None:
        """Cut the connection."""
        self._is_cut = True
        # Release the bytes now and not when the connection has ended, or other connections would exceed the
        # budget meanwhile.
        self._release()
        self._cut()

    def _release(self) -> None:
        self._budget.release(self, self._counted_b)
        self._counted_b = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
