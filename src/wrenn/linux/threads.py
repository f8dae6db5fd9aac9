"""Blocking work that a stopped VM waits for: in threads of its own, and never left behind by a cancellation.

Slow work that nobody waits for (flushes, removals of folders) fills the event loop's own threads; a VM that stands still must
not wait for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

_THREADS: Final = 32
"""More VMs at once do not start or stop faster: the work is copying."""
_pool: Final = ThreadPoolExecutor(_THREADS, thread_name_prefix="wrenn-vm")
"""Starts a thread when it first has work."""


def start(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> asyncio.Future[_T]:
    """Begin `work` in a thread. Never cancel the future, which would not stop it: `wait_ended`."""
    return asyncio.get_running_loop().run_in_executor(_pool, partial(work, *args, **kwargs))


async def wait_ended(future: asyncio.Future[_T]) -> None:
    """Return when the work has ended, well or not. A cancellation meanwhile is put off: the caller has one to raise."""
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({future})


async def run_to_end(work: Callable[[], _T], *, drop: Callable[[_T], object] = lambda _result: None) -> _T:
    """Do `work` in a thread. A cancellation is raised when it has ended, so that what it uses may be closed then.

    `drop` gets the result that nobody takes after a cancellation.
    """
    future = start(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await wait_ended(future)
        if future.exception() is None:
            drop(future.result())
        raise
