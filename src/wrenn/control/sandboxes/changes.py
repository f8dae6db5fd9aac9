"""Waiting for a sandbox to change: who waits is woken by this process's own writes, by other replicas' hints, by a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Final

from wrenn.base.ids import SandboxId
from wrenn.control.db import Database
from wrenn.control.sandboxes import store
from wrenn.control.sandboxes.records import Sandbox

_LOOK_AGAIN_S: Final = 2.0
"""When no hint comes: the way between replicas may be broken."""


class Change:
    """One waiter's wake-up."""

    def __init__(self, database: Database, sandbox_id: SandboxId) -> None:
        self._database = database
        self._sandbox_id = sandbox_id
        self._happened = asyncio.Event()

    def happened(self) -> None:
        """Wake the waiter."""
        self._happened.set()

    async def wait_until(self, done: Callable[[Sandbox], bool], *, timeout_s: float) -> Sandbox | None:
        """Look at each change since this waiter began, until `done`; None when there is no such sandbox.

        Raises:
            TimeoutError: not within `timeout_s`.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_AGAIN_S):
                        await self._happened.wait()
                self._happened.clear()
                sandbox = await store.load(self._database, self._sandbox_id)
                if sandbox is None or done(sandbox):
                    return sandbox


class Changes:
    """Who waits for which sandbox in this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[SandboxId, set[Change]] = {}

    @contextmanager
    def watch(self, sandbox_id: SandboxId) -> Generator[Change]:
        """Begin to watch. Begin before the first step whose effect is waited for, or its wake-up is missed."""
        change = Change(self._database, sandbox_id)
        self._waiting.setdefault(sandbox_id, set()).add(change)
        try:
            yield change
        finally:
            waiting = self._waiting[sandbox_id]
            waiting.discard(change)
            if not waiting:
                del self._waiting[sandbox_id]

    def tell(self, sandbox_id: SandboxId) -> None:
        """This sandbox changed."""
        for change in self._waiting.get(sandbox_id, ()):
            change.happened()

    def tell_all(self) -> None:
        """Something changed somewhere."""
        for waiting in self._waiting.values():
            for change in waiting:
                change.happened()
