"""Types of content that both clients can write to a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol, runtime_checkable

CHUNK_B: Final = 256 * 1024
"""Size of chunks: large enough for few system calls, small enough for memory."""


@runtime_checkable
class Readable(Protocol):
    """A file that is open for reading in binary mode, or a similar object."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; none at the end."""
        ...


def as_bytes(data: object) -> bytes | None:
    """Return the bytes of a str or of an object with a buffer (bytes, bytearray, memoryview, an array); None for other sources."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, Readable):
        return None
    try:
        return memoryview(data).tobytes()  # type: ignore[arg-type] - raises TypeError if there is no buffer
    except TypeError:
        return None


def pieces(data: bytes) -> Iterator[bytes]:
    """Split `data` into chunks."""
    view = memoryview(data)
    for start in range(0, len(view), CHUNK_B):
        yield bytes(view[start : start + CHUNK_B])
