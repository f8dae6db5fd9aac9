"""What the synchronous client does differently in more than its keywords; `_aio.py` is the asynchronous twin."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import ParamSpec, TypeVar, cast

from wrenn.sdk._source import CHUNK_B, Readable, as_bytes, pieces

P = ParamSpec("P")
T = TypeVar("T")

Source = str | bytes | bytearray | memoryview | os.PathLike[str] | Readable | Iterable[bytes]
"""What may be written to a file; a path stands for the file of this machine there."""


Callback = Callable[[str], object]
"""Called with a piece of text."""


def called(callback: Callback, text: str) -> None:
    """Call it."""
    callback(text)


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do what may wait for this machine's disk."""
    return work(*args, **kwargs)


def chunks_of(source: Source) -> Iterator[bytes]:
    """The bytes of `source` in order."""
    if isinstance(source, os.PathLike):
        raise TypeError("a path is opened by whoever writes its file")
    if (whole := as_bytes(source)) is not None:
        source = pieces(whole)
    if isinstance(source, Readable):
        while chunk := source.read(CHUNK_B):
            yield chunk
    else:
        yield from cast("Iterable[bytes]", source)
