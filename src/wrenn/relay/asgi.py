"""The types of ASGI that a relay needs, and the client's end of a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Final

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


GONE: Final = "wrenn.gone"
"""Extension of a scope: an event that is set when the client's connection has ended, also while nobody receives from it."""
_SOON_S: Final = 0.25
"""Most answers have come by then, and no task was needed to watch the client meanwhile."""


class Gone(Exception):
    """The client went away; nobody sees the answer."""


def gone_of(scope: Scope) -> asyncio.Event:
    """The event that the client's connection has ended; of a server that tells no such thing, one that is never set."""
    return scope.get("extensions", {}).get(GONE) or asyncio.Event()


@asynccontextmanager
async def unless_gone(receive: Receive, *, after: asyncio.Event) -> AsyncGenerator[None]:
    """Run the block, but not much longer than the client is there; it is watched from `after` on, when its body was read.

    Raises:
        Gone: the client went away, and the block was cancelled.
    """
    task = asyncio.current_task()
    assert task is not None, "requests are served by tasks"
    is_gone = False
    watcher: asyncio.Task[None] | None = None

    async def watch() -> None:
        nonlocal is_gone
        await after.wait()
        while (await receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        task.cancel()

    def begin() -> None:
        nonlocal watcher
        watcher = asyncio.create_task(watch())

    beginning = asyncio.get_running_loop().call_later(_SOON_S, begin)
    cancelling = task.cancelling()
    try:
        yield
    except asyncio.CancelledError as error:
        if not is_gone or task.uncancel() > cancelling:
            raise
        raise Gone from error
    finally:
        beginning.cancel()
        if watcher is not None:
            watcher.cancel()
        if is_gone and task.cancelling() > cancelling:
            # It went away in the very moment in which the block ended: the cancellation is still on its way.
            task.uncancel()
