"""Long-lasting calls of a replica, grouped by what each needs, and looked at again and again for as long as there are any."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Hashable, Sequence
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from wrenn.base.loops import Loop

_EVERY_S: Final = 2.0
"""Seconds between two checks by the timer: how late an expiry or a lost notification is noticed."""
_COALESCE_S: Final = 0.5
"""The least time between two checks, however many notifications arrive."""
_BATCH: Final = 1000
"""Keys in one statement."""

_Key = TypeVar("_Key", bound=Hashable)
_Call = TypeVar("_Call")


class WatchedCalls(Generic[_Key, _Call]):
    """The calls of a replica by their keys. `check` looks at the calls of a batch of keys."""

    def __init__(self, name: str, check: Callable[[Sequence[_Key]], Awaitable[None]]) -> None:
        self._check = check
        self._calls: dict[_Key, set[_Call]] = {}
        self._some = asyncio.Event()
        self.loop = Loop(name)

    def of(self, key: _Key) -> list[_Call]:
        """Return the calls with this key."""
        return list(self._calls.get(key, ()))

    @contextmanager
    def registered(self, key: _Key, call: _Call) -> Generator[None]:
        """Register a call while the body runs."""
        self._calls.setdefault(key, set()).add(call)
        self._some.set()
        try:
            yield
        finally:
            calls = self._calls[key]
            calls.discard(call)
            if not calls:
                del self._calls[key]
            if not self._calls:
                self._some.clear()
                self.loop.clear_error()

    async def run(self) -> None:
        """Check all calls at an interval and when the loop is woken, until cancelled."""
        while True:
            await self._some.wait()
            await self.loop.wait(_EVERY_S)
            await self.loop.attempt(self.check_once, otherwise=None)
            await asyncio.sleep(_COALESCE_S)

    async def check_once(self) -> None:
        """Check all calls now."""
        keys = list(self._calls)
        for begin in range(0, len(keys), _BATCH):
            await self._check(keys[begin : begin + _BATCH])
