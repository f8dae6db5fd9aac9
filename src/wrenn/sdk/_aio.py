"""What the asynchronous client does differently in more than its keywords; `_io.py` is the synchronous twin."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
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
"""What may be written to a file; a path stands for the file of this machine there."""


Callback = Callable[[str], Awaitable[object] | object]
"""Called with a piece of text; may be asynchronous."""


async def called(callback: Callback, text: str) -> None:
    """Call it, and wait for it."""
    outcome = callback(text)
    if isawaitable(outcome):
        await outcome


async def sleep(seconds: float) -> None:
    """Wait."""
    await asyncio.sleep(seconds)


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do what may wait for this machine's disk."""
    return await asyncio.to_thread(work, *args, **kwargs)


async def chunks_of(source: Source) -> AsyncIterator[bytes]:
    """The bytes of `source` in order. Files are read in a thread, so that a slow disk holds nobody up."""
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
