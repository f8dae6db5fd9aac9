"""Background loops: failures are logged and do not end the loop, and the result of the last run can be read."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoopStatus:
    """The result of a loop's last run.

    Attributes:
        started_at_unix: start of the last run; None: it has not run yet.
        duration_s: duration of that run; None: it is still in progress.
        error: why it failed; empty: it did not fail.
        failures: number of consecutive failed runs up to now.
    """

    name: str
    started_at_unix: float | None = None
    duration_s: float | None = None
    error: str = ""
    failures: int = 0


class Loop:
    """One background loop. `name` describes it in logs and in `wrenn status`.

    Attributes:
        status: the result of its last run.
        total_failures: number of failed runs since the program started.
        last_success_at_unix: start of the last successful run; None: there was none yet.
    """

    def __init__(self, name: str) -> None:
        self.status = LoopStatus(name)
        self.total_failures = 0
        self.last_success_at_unix: float | None = None
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Start the next run without waiting for its time."""
        self._woken.set()

    def succeeded(self) -> None:
        """Record that a run which does not end by itself works."""
        self.clear_error()
        self.last_success_at_unix = time.time()

    def clear_error(self) -> None:
        """Forget former failures: nobody needs the work that failed any more."""
        self.status = replace(self.status, error="", failures=0)

    async def run(
        self,
        work: Callable[[], Awaitable[float | None]],
        *,
        every_s: float,
        after_failure_s: float = 0.0,
        at_once: bool = True,
    ) -> None:
        """Run `work` now, and again after `every_s`, or earlier when woken or if `work` returns fewer seconds; until cancelled.

        Args:
            work: one run; it may return the seconds until the next one is due.
            every_s: longest time between two runs.
            after_failure_s: passes after a failure in addition, woken or not.
            at_once: False: the first run is also delayed by `every_s`.
        """
        if not at_once:
            await self.wait(every_s)
        while True:
            failures = self.status.failures
            wait_s = await self.attempt(work, otherwise=None)
            if self.status.failures > failures:
                await asyncio.sleep(after_failure_s)
            await self.wait(every_s if wait_s is None else min(every_s, wait_s))

    async def attempt(self, work: Callable[[], Awaitable[T]], *, otherwise: T) -> T:
        """Run `work` once and return its result. A failure is logged, and `otherwise` is returned."""
        name, failures = self.status.name, self.status.failures
        started_at, begun = time.time(), time.monotonic()
        self.status = LoopStatus(name, started_at, None, self.status.error, failures)
        try:
            result = await work()
        except Exception as error:  # noqa: BLE001 - a background loop must go on; its next run tries again
            # The first line only: database drivers add statements and details.
            text = next(iter(str(error).splitlines()), type(error).__name__)
            if failures:
                _log.warning("background loop still fails", extra={"loop": name, "cause": text})
            else:
                _log.exception("background loop failed", extra={"loop": name})
            self.status = LoopStatus(name, started_at, time.monotonic() - begun, text, failures + 1)
            self.total_failures += 1
            return otherwise
        self.status = LoopStatus(name, started_at, time.monotonic() - begun)
        self.last_success_at_unix = started_at
        return result

    async def wait(self, timeout_s: float | None) -> None:
        """Wait until woken, or until `timeout_s` have passed (None: without limit). A call of `wake` since the last wait counts."""
        # Always yield: a loop that is woken all the time, and whose work never waits, would block the event
        # loop.
        await asyncio.sleep(0)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        self._woken.clear()
