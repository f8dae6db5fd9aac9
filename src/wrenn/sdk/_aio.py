"""Helpers that differ between the clients by more than `async` and `await`; `_io.py` is the synchronous counterpart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from inspect import isawaitable
from typing import ParamSpec, TypeVar, cast

from wrenn.sdk._source import CHUNK_B, Readable, as_bytes, pieces

P = ParamSpec("P")
T = TypeVar("T")

Source = (
    str
    | bytes
    | bytearray
    | memoryview
    | os.PathLike[str]
    | Readable
    | Iterable[bytes]
    | AsyncIterable[bytes]
)
"""Content for a file; a path means the content of that local file."""


Callback = Callable[[str], Awaitable[object] | object]
"""Called with a piece of text; may be asynchronous."""


async def invoke(callback: Callback, text: str) -> None:
    """Call it, and await the result if it is awaitable."""
    outcome = callback(text)
    if isawaitable(outcome):
        await outcome


async def sleep(seconds: float) -> None:
    """Wait for `seconds`."""
    await asyncio.sleep(seconds)


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run work that may block on the local disk."""
    return await asyncio.to_thread(work, *args, **kwargs)


async def to_end_in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run short work that may block on the local disk. A cancellation takes effect once it has ended.

    The thread cannot be interrupted, and whoever cleans up must not do that while it goes on writing.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        raise


async def chunks_of(source: Source) -> AsyncIterator[bytes]:
    """Yield the bytes of `source`. Files are read in a thread, so that a slow disk does not block the event loop."""
    if isinstance(source, os.PathLike):
        raise TypeError("a path is opened by whoever writes its file")
    if (whole := as_bytes(source)) is not None:
        source = pieces(whole)
    if isinstance(source, Readable):
        while chunk := await asyncio.to_thread(source.read, CHUNK_B):
            yield chunk
    elif isinstance(source, AsyncIterable):
        async for chunk in source:
            yield chunk
    else:
        for chunk in cast("Iterable[bytes]", source):
            yield chunk
