"""Helpers that differ between the clients by more than `async` and `await`; `_aio.py` is the asynchronous counterpart."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import ParamSpec, TypeVar, cast

from wrenn.sdk._source import CHUNK_B, Readable, as_bytes, pieces

P = ParamSpec("P")
T = TypeVar("T")

Source = str | bytes | bytearray | memoryview | os.PathLike[str] | Readable | Iterable[bytes]
"""Content for a file; a path means the content of that local file."""


Callback = Callable[[str], object]
"""Called with a piece of text."""


def invoke(callback: Callback, text: str) -> None:
    """Call it."""
    callback(text)


def sleep(seconds: float) -> None:
    """Wait for `seconds`."""
    time.sleep(seconds)


def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run work that may block on the local disk."""
    return work(*args, **kwargs)


def to_end_in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run work that may block on the local disk."""
    return work(*args, **kwargs)


def chunks_of(source: Source) -> Iterator[bytes]:
    """Yield the bytes of `source`."""
    if isinstance(source, os.PathLike):
        raise TypeError("a path is opened by whoever writes its file")
    if (whole := as_bytes(source)) is not None:
        source = pieces(whole)
    if isinstance(source, Readable):
        while chunk := source.read(CHUNK_B):
            yield chunk
    else:
        yield from cast("Iterable[bytes]", source)
