"""Waiting for a sandbox to change: waiters are woken by writes of this process, by hints of other replicas, and by a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Final

from wrenn.base.errors import DatabaseUnavailable
from wrenn.base.ids import SandboxId
from wrenn.control.db import Database
from wrenn.control.sandboxes import store
from wrenn.control.sandboxes.records import Sandbox

_LOOK_AGAIN_S: Final = 2.0
"""When no hint comes: the way between replicas may be broken."""
_OUTAGE_S: Final = 15.0
"""A waiter outlasts a database that is away for so long, which is enough for a restart or a failover."""


class ChangeWaiter:
    """Waits for changes of one sandbox."""

    def __init__(self, database: Database, sandbox_id: SandboxId) -> None:
        self._database = database
        self._sandbox_id = sandbox_id
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Wake the waiter: the sandbox may have changed."""
        self._woken.set()

    async def wait_until(self, done: Callable[[Sandbox], bool], *, timeout_s: float) -> Sandbox | None:
        """Load the sandbox after each change until `done` accepts it, and return it; None: there is no such sandbox.

        Raises:
            TimeoutError: not within `timeout_s`.
            DatabaseUnavailable: the database is away for longer than a restart takes.
        """
        unavailable_since: float | None = None
        async with asyncio.timeout(timeout_s):
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_AGAIN_S):
                        await self._woken.wait()
                self._woken.clear()
                try:
                    sandbox = await store.load(self._database, self._sandbox_id)
                except DatabaseUnavailable:
                    # What was asked for is committed, and will be done.
                    now = asyncio.get_running_loop().time()
                    unavailable_since = now if unavailable_since is None else unavailable_since
                    if now - unavailable_since > _OUTAGE_S:
                        raise
                    continue
                unavailable_since = None
                if sandbox is None or done(sandbox):
                    return sandbox


class ChangeNotifier:
    """Wakes those in this process who wait for a sandbox to change."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[SandboxId, set[ChangeWaiter]] = {}

    @contextmanager
    def watch(self, sandbox_id: SandboxId) -> Generator[ChangeWaiter]:
        """Register a waiter while the body runs. Register before the step whose effect is waited for, or its wake-up may be missed."""
        change = ChangeWaiter(self._database, sandbox_id)
        self._waiting.setdefault(sandbox_id, set()).add(change)
        try:
            yield change
        finally:
            waiting = self._waiting[sandbox_id]
            waiting.discard(change)
            if not waiting:
                del self._waiting[sandbox_id]

    def notify(self, sandbox_id: SandboxId) -> None:
        """Wake those who wait for this sandbox."""
        for change in self._waiting.get(sandbox_id, ()):
            change.wake()

    def notify_all(self) -> None:
        """Wake everyone who waits."""
        for waiting in self._waiting.values():
            for change in waiting:
                change.wake()
