"""What the synchronous client does differently in more than its keywords; `_aio.py` is the asynchronous twin."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import ParamSpec, TypeVar

from wrenn.sdk._source import CHUNK_B, Readable, pieces

P = ParamSpec("P")
T = TypeVar("T")

Source = str | bytes | Readable | Iterable[bytes]
"""What may be written to a file."""


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
    if isinstance(source, str):
        source = source.encode()
    if isinstance(source, bytes):
        source = pieces(source)
    if isinstance(source, Readable):
        while chunk := source.read(CHUNK_B):
            yield chunk
    else:
        yield from source
