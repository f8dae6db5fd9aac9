"""Tasks with an owner, which cancels them and logs their errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextvars import copy_context
from typing import Any, TypeVar

from wrenn.base.request_ids import request_id

T = TypeVar("T")

_log = logging.getLogger(__name__)


class OwnedTasks:
    """A set of background tasks that end when their owner closes.

    Unlike `asyncio.TaskGroup`, one task's failure does not end the others: it is logged.
    """

    def __init__(self) -> None:
        # In the order in which they were started: they are cancelled in it, the same in each run of a simulation.
        self._tasks: dict[asyncio.Task[object], None] = {}
        self._closed = False

    def start(self, name: str, work: Coroutine[object, object, object]) -> asyncio.Task[object]:
        """Run `work` until it ends or `close()` is called. It is not part of the request that starts it, for logs."""
        assert not self._closed, "a task was started after its owner closed"
        context = copy_context()
        context.run(request_id.set, "")
        task = asyncio.get_running_loop().create_task(work, name=name, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[object]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background task failed", extra={"task": task.get_name()}, exc_info=error)

    async def close(self) -> None:
        """Cancel all tasks and wait for their end. Idempotent."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def first_of(*works: Coroutine[Any, Any, object]) -> None:
    """Run all of these until the first one ends; then cancel the others and wait for their end.

    Raises:
        Exception: an error of one that ended first.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class EndedFirst(Exception):
    """The awaited condition occurred before the work was done."""


async def run_unless(ended: Coroutine[Any, Any, object], work: Coroutine[Any, Any, T]) -> T:
    """Run `work` and return its result. If `ended` returns first, cancel `work` and wait for its end.

    Raises:
        EndedFirst: `ended` returned first.
        Exception: an error of `work`.
    """
    working, ending = asyncio.create_task(work), asyncio.create_task(ended)
    try:
        await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, ending):
            task.cancel()
        await asyncio.wait({working, ending})
    if working.cancelled():
        raise EndedFirst
    return working.result()
