"""What both clients can write to a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol, runtime_checkable

CHUNK_B: Final = 256 * 1024
"""Bytes handed to the connection at once: few system calls, little memory."""


@runtime_checkable
class Readable(Protocol):
    """A file opened for reading in binary mode, or what behaves like one."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


def as_bytes(data: object) -> bytes | None:
    """The bytes of a text or of what has a buffer: bytes, bytearray, memoryview, an array; None: it is read piece by piece."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, Readable):
        return None
    try:
        return memoryview(data).tobytes()  # type: ignore[arg-type] - refuses what has no buffer
    except TypeError:
        return None


def pieces(data: bytes) -> Iterator[bytes]:
    """`data` in chunks."""
    view = memoryview(data)
    for start in range(0, len(view), CHUNK_B):
        yield bytes(view[start : start + CHUNK_B])
