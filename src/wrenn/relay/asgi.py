"""The ASGI types that a relay needs, and how it detects that the client has disconnected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Final

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


GONE: Final = "wrenn.gone"
"""Key of a scope extension: an `asyncio.Event` that is set when the client disconnects, even if nobody calls
`receive`."""
_SOON_S: Final = 0.25
"""How long to wait before a task watches the client. Most responses are done by then, so no task is needed."""


class CallerDisconnected(Exception):
    """The client has disconnected, so nobody would receive the response."""


def disconnect_event(scope: Scope) -> asyncio.Event:
    """Return the event that is set when the client disconnects. With a server that has no such extension it is never set."""
    return scope.get("extensions", {}).get(GONE) or asyncio.Event()


@asynccontextmanager
async def cancel_on_disconnect(receive: Receive, *, after: asyncio.Event) -> AsyncGenerator[None]:
    """Run the block, and cancel it when the client disconnects. The client is watched once `after` is set, when its body was read.

    Raises:
        CallerDisconnected: the client disconnected, and the block was cancelled.
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
        raise CallerDisconnected from error
    finally:
        beginning.cancel()
        if watcher is not None:
            watcher.cancel()
        if is_gone and task.cancelling() > cancelling:
            # The client disconnected just as the block ended: the cancellation has been requested but not
            # delivered yet.
            task.uncancel()
