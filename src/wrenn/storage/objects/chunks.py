"""Splits a sparse file into chunks and writes it from them; holes and zeros cost nothing on either side.

All of it blocks: callers run it in threads, in which hashing and compression do not hold up the others.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from wrenn.protocol.image_manifest import CHUNK_B


class ChunkReader(Protocol):
    """What an image is read from in chunks; it must not change. `SparseReader` and `StateReader` implement it."""

    @property
    def size_b(self) -> int:
        """The size of all chunks."""
        ...

    @property
    def chunk_count(self) -> int:
        """The number of chunks."""
        ...

    def data_chunks(self) -> Iterator[int]:
        """Yield the indexes of the chunks that are not holes, in order."""
        ...

    def read(self, index: int) -> bytes:
        """Return the bytes of a chunk; empty: it is all zeros. Called from several threads at once."""
        ...


class ChunkWriter(Protocol):
    """What the chunks of an image are written to."""

    def write(self, index: int, data: bytes) -> None:
        """Write a chunk. Called from several threads at once."""
        ...


class SparseReader:
    """Reads a file in chunks. Use it as a context.

    Attributes:
        size_b: of the file when it was opened; it must not change.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self.size_b = os.fstat(self._file).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    @property
    def chunk_count(self) -> int:
        """The number of chunks, with those that are holes."""
        return -(-self.size_b // CHUNK_B)

    def data_chunks(self) -> Iterator[int]:
        """Yield the indexes of the chunks that are not holes, in order. They may be zeros all the same."""
        at, last = 0, -1
        while at < self.size_b:
            try:
                start = os.lseek(self._file, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            end = os.lseek(self._file, start, os.SEEK_HOLE)
            for index in range(max(last + 1, start // CHUNK_B), -(-end // CHUNK_B)):
                yield index
                last = index
            at = end

    def read(self, index: int) -> bytes:
        """Return the bytes of a chunk; empty: it is all zeros. May be called from several threads at once."""
        data = os.pread(self._file, CHUNK_B, index * CHUNK_B)
        return b"" if not data.rstrip(b"\0") else data


class SparseWriter:
    """Writes a new file of a fixed size, in which all that is not written is a hole. Use it as a context."""

    def __init__(self, path: Path, size_b: int) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.ftruncate(self._file, size_b)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def write(self, index: int, data: bytes) -> None:
        """Write a chunk. May be called from several threads at once."""
        view, at = memoryview(data), index * CHUNK_B
        while view:
            written = os.pwrite(self._file, view, at)
            view, at = view[written:], at + written

    def sync(self) -> None:
        """Return when everything that was written survives a power failure."""
        os.fsync(self._file)
