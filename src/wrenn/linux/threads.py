"""Runs blocking work in threads: in a new one, or in a pool, always waiting for its end despite cancellation.

Slow work in the background (flushes, removals of folders) may fill the event loop's own threads, and a stopped VM must not wait for
that. Memory of VMs takes as long as the disk does, minutes perhaps, so it has pools of its own, and so have the watch of the disk and the
taking of space there.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

_THREADS: Final = 32
"""More concurrent VMs do not start or stop faster, because the work is copying."""
_pool: Final = ThreadPoolExecutor(_THREADS, thread_name_prefix="wrenn-vm")
"""Starts its threads on demand."""
SAVES_AT_ONCE: Final = 8
"""More at once share one disk, and each takes longer."""
SAVING: Final = ThreadPoolExecutor(SAVES_AT_ONCE, thread_name_prefix="wrenn-save")
"""For memory of VMs that is written to files."""
LOADING: Final = ThreadPoolExecutor(16, thread_name_prefix="wrenn-load")
"""For memory of VMs that is read from files: a resume must not wait for the pauses of others."""
DISK_WATCH: Final = ThreadPoolExecutor(1, thread_name_prefix="wrenn-disk-watch")
"""For the watch of the disk alone, which must go on while everything else waits for the disk."""
DISK_SPACE: Final = ThreadPoolExecutor(1, thread_name_prefix="wrenn-disk-space")
"""For taking disk space alone, which work in all other threads may wait for."""


def start_in_own_thread(work: Callable[[], _T]) -> Future[_T]:
    """Run `work` in a new thread, which may change its namespaces and credentials because it ends afterwards."""
    outcome: Future[_T] = Future()
    outcome.set_running_or_notify_cancel()

    def body() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where the outcome is read
            outcome.set_exception(error)

    threading.Thread(target=body, name="own-thread", daemon=True).start()
    return outcome


def start(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> asyncio.Future[_T]:
    """Start `work` in a thread. Do not cancel the future, which would not stop the work: use `wait_ended`."""
    return start_in(_pool, partial(work, *args, **kwargs))


async def wait_ended(future: asyncio.Future[_T]) -> None:
    """Wait until the work has ended, successfully or not. A cancellation meanwhile is swallowed: the caller has one to raise."""
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({future})


def start_in(pool: ThreadPoolExecutor, work: Callable[[], _T]) -> asyncio.Future[_T]:
    """Start `work` in a thread of this pool; otherwise as `start`."""
    return asyncio.get_running_loop().run_in_executor(pool, work)


async def run_to_end(
    work: Callable[[], _T],
    *,
    drop: Callable[[_T], object] = lambda _result: None,
    pool: ThreadPoolExecutor = _pool,
) -> _T:
    """Run `work` in a thread of the pool. A cancellation is raised only after it has ended, so that its resources can be closed then.

    After a cancellation, `drop` is called in a thread with the unused result, and waited for.
    """
    future = start_in(pool, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await wait_ended(future)
        if future.exception() is None:
            dropped = start(drop, future.result())
            await wait_ended(dropped)
            dropped.result()
        raise
