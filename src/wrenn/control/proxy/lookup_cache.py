"""A cache of lookups for 2 seconds. Concurrent callers share one lookup; entries are dropped when something may have changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

from wrenn.base.clock import Clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

KEEP_S: Final = 2.0
"""How long an entry is used. If the notification of a change is lost, the change is noticed this late."""
_LIMIT: Final = 10_000
"""Entries; when the limit is reached, all are dropped."""


class LookupCache(Generic[K, V]):
    """Caches the results of `look` by key for `keep_s`, at most `most`. `keep` says which results to cache; errors are not cached."""

    def __init__(
        self,
        look: Callable[[K], Awaitable[V]],
        clock: Clock,
        *,
        keep: Callable[[V], bool] = lambda _: True,
        keep_s: float = KEEP_S,
        most: int = _LIMIT,
    ) -> None:
        self._look = look
        self._clock = clock
        self._keep = keep
        self._keep_s = keep_s
        self._most = most
        self._known: dict[K, tuple[float, V]] = {}
        self._looking: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K) -> V:
        """Return the cached result, or look it up; concurrent callers share one lookup."""
        known = self._known.get(key)
        if known is not None and self._clock.monotonic() - known[0] < self._keep_s:
            return known[1]
        task = self._looking.get(key)
        if task is None:
            task = self._looking[key] = asyncio.create_task(self._find(key))
            task.add_done_callback(_seen)
        # Other callers wait for the same task, so it is not cancelled with this caller.
        return await asyncio.shield(task)

    async def _find(self, key: K) -> V:
        task = asyncio.current_task()
        at = self._clock.monotonic()
        try:
            value = await self._look(key)
            # If the key was forgotten during the lookup, the result may be older than the change.
            if self._looking.get(key) is task and self._keep(value):
                if len(self._known) >= self._most:
                    self._known.clear()
                self._known[key] = at, value
            return value
        finally:
            if self._looking.get(key) is task:
                del self._looking[key]

    def forget(self, key: K) -> None:
        """Drop the cached result of a key, and ignore a lookup in progress."""
        self._known.pop(key, None)
        self._looking.pop(key, None)

    def forget_all(self) -> None:
        """Drop all cached results, and ignore lookups in progress."""
        self._known.clear()
        self._looking.clear()


def _seen(task: asyncio.Task[V]) -> None:
    if not task.cancelled():
        task.exception()  # all callers may have been cancelled
