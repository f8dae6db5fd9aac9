"""Tasks with an owner: started in one place, ended in one place, never lost with their error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine

_log = logging.getLogger(__name__)


async def repeat(work: Callable[[], Awaitable[object]], *, every_s: float, failed: str) -> None:
    """Do `work` now, and again so long after each end, until cancelled. A failure is logged as `failed`; the next time comes."""
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001 - the loop must go on; what failed is tried again
            _log.exception(failed)
        await asyncio.sleep(every_s)


class OwnedTasks:
    """A set of background tasks that end when their owner closes.

    Unlike `asyncio.TaskGroup`, one task's failure does not end the others: it is logged.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._closed = False

    def start(self, name: str, work: Coroutine[object, object, object]) -> asyncio.Task[object]:
        """Run `work` until it ends or `close()` is called."""
        assert not self._closed, "a task was started after its owner closed"
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background task failed", extra={"task": task.get_name()}, exc_info=error)

    async def close(self) -> None:
        """Cancel all tasks and wait for their end. May be called twice."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
