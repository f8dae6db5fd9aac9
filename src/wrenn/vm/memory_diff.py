"""Memory diffs: the pages of a guest's RAM that differ from the memory image it runs on.

Format and rules: docs/design/snapshots.md. Written from a stopped process, laid over another process's memory or over a
memfd. Two threads share the work, since it is copying, and the VM waits for it.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from wrenn.base.units import PAGE_B
from wrenn.linux.files import data_extents, translated
from wrenn.linux.process_memory import PageRuns, ProcessMemory, pages_of, runs_of
from wrenn.storage.errors import DamagedSnapshot

_MAGIC: Final = b"WRNNMEM1"
_HEADER: Final = struct.Struct("<8s6Q")
"""Magic, page size, pages of RAM, data pages, runs, chunks, offset of the tables. Then XXH3-128 of this and the tables."""
_DIGEST_B: Final = 16
_RUN: Final = np.dtype([("page", "<u4"), ("count", "<u4"), ("data", "<u4")])
_CHUNK: Final = np.dtype([("data", "<u4"), ("count", "<u4"), ("digest", "<u8")])
_ZEROS: Final = 0xFFFFFFFF
_PIECE_PAGES: Final = 256
"""1 MiB at a time: stays in the processor's cache between reading, comparing, writing and its digest, and threads do not wait long
for each other, since a file takes one write at a time."""
_THREADS: Final = 2
_WORDS: Final = PAGE_B // 8

Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class DiffSize:
    """Size of a diff. `digest` covers its tables, which in turn have the digests of the data."""

    data_pages: int
    zero_pages: int
    size_b: int
    digest: str


class MemorySource(Protocol):
    """A guest's RAM as it is now, of which some pages may differ from its image."""

    @property
    def size_b(self) -> int:
        """Its size."""
        ...

    @property
    def pages(self) -> int:
        """Its size in pages."""
        ...

    def own_pages(self) -> PageRuns:
        """Return the pages that differ, or may differ, from the image."""
        ...

    def read(self, runs: PageRuns, into: NDArray[np.uint8]) -> None:
        """Read the pages of `runs` consecutively into the start of `into`. Called by several threads."""
        ...


class _Image:
    """The memory image that pages are compared with."""

    def __init__(self, fd: int, size_b: int) -> None:
        self._map = mmap.mmap(fd, size_b, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
        self.words: Words = np.frombuffer(self._map, dtype=np.uint64).reshape(-1, _WORDS)
        self.has_data = np.zeros(size_b // PAGE_B, dtype=np.bool_)
        for start, end in data_extents(fd):
            self.has_data[start // PAGE_B : -(-end // PAGE_B)] = True

    def close(self) -> None:
        del self.words
        self._map.close()

    def same(self, pages: NDArray[np.int64], content: Words, zero: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which pages are equal to the image's."""
        there = self.has_data[pages]
        same = zero & ~there
        # Most pages differ in their first words already: only the others are compared whole.
        maybe = np.flatnonzero(there)
        maybe = maybe[(self.words[pages[maybe], :8] == content[maybe, :8]).all(axis=1)]
        same[maybe] = (self.words[pages[maybe]] == content[maybe]).all(axis=1)
        return same


@contextmanager
def _image(fd: int, size_b: int) -> Generator[_Image]:
    image = _Image(fd, size_b)
    try:
        yield image
    finally:
        image.close()


class _Writer:
    """Writes one diff with several threads."""

    def __init__(self, fd: int, memory: MemorySource, image: _Image) -> None:
        self._fd = fd
        self._memory = memory
        self._image = image
        self._lock = threading.Lock()
        self._local = threading.local()
        self.data_pages = 0
        self.runs: list[NDArray[np.void]] = []
        self.chunks: list[tuple[int, int, int]] = []

    def _buffer(self) -> NDArray[np.uint8]:
        buffer: NDArray[np.uint8] | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = np.empty(_PIECE_PAGES * PAGE_B, dtype=np.uint8)
        return buffer

    def take(self, runs: PageRuns) -> None:
        """Read these pages and write those that differ."""
        pages = pages_of(runs)
        buffer = self._buffer()
        self._memory.read(runs, buffer)
        content = buffer.view(np.uint64).reshape(-1, _WORDS)[: len(pages)]
        zero = _zero(content)
        same = self._image.same(pages, content, zero)
        holds = ~zero & ~same
        stored = np.flatnonzero(holds)
        with self._lock:
            first = self.data_pages
            self.data_pages += len(stored)
        if len(stored):
            data = content if len(stored) == len(pages) else content[stored]
            view = data.data.cast("B")
            _write(self._fd, view, (first + 1) * PAGE_B)
            digest = xxhash.xxh3_64_intdigest(view)
        else:
            digest = 0
        rows = _rows(pages[stored], first), _zero_rows(pages[zero & ~same])
        with self._lock:
            self.runs.extend(rows)
            if len(stored):
                self.chunks.append((first, len(stored), digest))


def _zero(content: Words) -> NDArray[np.bool_]:
    zero = content[:, 0] == 0
    maybe = np.flatnonzero(zero)
    zero[maybe] = content[maybe].max(axis=1, initial=0) == 0
    return zero


def _rows(pages: NDArray[np.int64], first: int) -> NDArray[np.void]:
    """Group pages whose data is contiguous, as runs from `first`."""
    runs = runs_of(pages)
    rows = np.empty(len(runs), dtype=_RUN)
    rows["page"], rows["count"] = runs[:, 0], runs[:, 1]
    rows["data"] = first + np.concatenate(([0], np.cumsum(runs[:, 1])[:-1])) if len(runs) else 0
    return rows


def _zero_rows(pages: NDArray[np.int64]) -> NDArray[np.void]:
    rows = _rows(pages, 0)
    rows["data"] = _ZEROS
    return rows


def _write(fd: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(fd, content, offset)
        content, offset = content[written:], offset + written


def _pieces(runs: PageRuns) -> Iterator[PageRuns]:
    """Split runs into pieces of at most `_PIECE_PAGES`."""
    ends = np.cumsum(runs[:, 1])
    begins = ends - runs[:, 1]
    total = int(ends[-1]) if len(ends) else 0
    for low in range(0, total, _PIECE_PAGES):
        high = min(low + _PIECE_PAGES, total)
        first, last = np.searchsorted(ends, low, side="right"), np.searchsorted(begins, high, side="left")
        piece = runs[first:last].copy()
        cut = max(0, low - int(begins[first]))
        piece[0] += (cut, -cut)
        piece[-1, 1] -= max(0, int(ends[last - 1]) - high)
        yield piece


def _in_threads(work: Callable[[PageRuns], None], pieces: Iterator[PageRuns]) -> None:
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="memory-diff") as pool:
        for _ in pool.map(work, pieces):
            pass


def write_diff(
    path: Path, memory: MemorySource, image_fd: int, further: NDArray[np.int64] | None = None
) -> DiffSize:
    """Write the pages of the suspended VM's `memory` that differ from the image to the new file `path`. Blocking.

    `further` are pages to look at beside the process's own: those in which the image that it maps differs from this one.

    Raises:
        StorageFull: no room. OSError: the process is gone.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        with _image(image_fd, memory.size_b) as image:
            writer = _Writer(fd, memory, image)
            candidates = memory.own_pages()
            if further is not None:
                candidates = runs_of(np.union1d(pages_of(candidates), further))
            _in_threads(writer.take, _pieces(candidates))
        runs = np.concatenate(writer.runs) if writer.runs else np.empty(0, dtype=_RUN)
        runs = runs[np.argsort(runs["data"], kind="stable")]
        chunks = np.array(sorted(writer.chunks), dtype=_CHUNK)
        tables = runs.tobytes() + chunks.tobytes()
        offset = (writer.data_pages + 1) * PAGE_B
        header = _HEADER.pack(_MAGIC, PAGE_B, memory.pages, writer.data_pages, len(runs), len(chunks), offset)
        digest = xxhash.xxh3_128_digest(header + tables)
        os.ftruncate(fd, offset + len(tables))
        _write(fd, memoryview(tables), offset)
        _write(fd, memoryview(header + digest), 0)
        zero_pages = int(runs["count"][runs["data"] == _ZEROS].sum())
        return DiffSize(writer.data_pages, zero_pages, offset + len(tables), digest.hex())
    except OSError as error:
        raise translated(error, doing="save the sandbox's memory") from error
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class _Tables:
    pages: int
    runs: NDArray[np.void]
    chunks: NDArray[np.void]


def _tables(fd: int, name: str, digest: str) -> _Tables:
    """Read the tables of a diff and check that every number is in bounds and every page has a digest."""
    size_b = os.fstat(fd).st_size
    head = os.pread(fd, _HEADER.size, 0)
    stored_digest = os.pread(fd, _DIGEST_B, _HEADER.size)
    if len(stored_digest) < _DIGEST_B or not head.startswith(_MAGIC):
        raise DamagedSnapshot(f"{name} is not a memory diff of this version.")
    _, page_b, pages, data_pages, runs, chunks, offset = _HEADER.unpack(head)
    length = runs * _RUN.itemsize + chunks * _CHUNK.itemsize
    if page_b != PAGE_B or offset != (data_pages + 1) * PAGE_B or offset + length != size_b:
        raise DamagedSnapshot(f"{name} is torn: its size is not what its header says.")
    raw = os.pread(fd, length, offset)
    if stored_digest.hex() != digest or xxhash.xxh3_128_digest(head + raw) != stored_digest:
        raise DamagedSnapshot(f"{name} is damaged: its page map is not what was written.")
    tables = _Tables(
        pages,
        np.frombuffer(raw, dtype=_RUN, count=runs),
        np.frombuffer(raw, dtype=_CHUNK, count=chunks, offset=runs * _RUN.itemsize),
    )
    if not _within_bounds(tables, data_pages):
        raise DamagedSnapshot(f"{name} is damaged: its page map cannot be.")
    return tables


def _within_bounds(tables: _Tables, data_pages: int) -> bool:
    """Return whether all runs are within the RAM, and runs and chunks each cover all data without overlap."""
    runs, chunks = _spans(tables.runs), _spans(tables.chunks)
    if ((tables.runs["page"].astype(np.int64) + runs[:, 1]) > tables.pages).any():
        return False
    runs = runs[runs[:, 0] != _ZEROS]
    for spans in (runs, chunks):
        if (spans[:, 1] < 1).any() or not np.array_equal(np.cumsum(spans[:, 1]) - spans[:, 1], spans[:, 0]):
            return False
        if int(spans[:, 1].sum()) != data_pages:
            return False
    return bool(np.isin(chunks[:, 0], runs[:, 0]).all())


def _spans(rows: NDArray[np.void]) -> NDArray[np.int64]:
    return np.stack([rows["data"].astype(np.int64), rows["count"].astype(np.int64)], 1)


def apply_diff(path: Path, digest: str, destination: ProcessMemory | MemoryFile) -> None:
    """Write the pages of the diff to `destination`. Blocking. `digest` is what `write_diff` returned.

    Raises:
        DamagedSnapshot: the file is not what was written; the destination is spoiled then. OSError: it is gone.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        tables = _tables(fd, path.name, digest)
        if tables.pages != destination.pages:
            raise DamagedSnapshot(f"{path.name} belongs to a machine of another size.")
        data_runs = tables.runs[tables.runs["data"] != _ZEROS]
        starts = data_runs["data"].astype(np.int64)

        def apply_chunk(chunk: NDArray[np.void]) -> None:
            first, count = int(chunk["data"]), int(chunk["count"])
            content = np.frombuffer(os.pread(fd, count * PAGE_B, (first + 1) * PAGE_B), dtype=np.uint8)
            if xxhash.xxh3_64_intdigest(content.data) != int(chunk["digest"]):
                raise DamagedSnapshot(f"{path.name} is damaged: its pages are not what was written.")
            low, high = np.searchsorted(starts, (first, first + count))
            destination.write(_as_runs(data_runs[low:high]), content)

        with ThreadPoolExecutor(_THREADS, thread_name_prefix="memory-diff") as pool:
            for _ in pool.map(apply_chunk, tables.chunks):
                pass
        zeros = np.zeros(_PIECE_PAGES * PAGE_B, dtype=np.uint8)
        for piece in _pieces(_as_runs(tables.runs[tables.runs["data"] == _ZEROS])):
            destination.write(piece, zeros)
    finally:
        os.close(fd)


def changed_pages(path: Path, digest: str) -> NDArray[np.int64]:
    """Return the numbers of the pages in a diff.

    Raises:
        DamagedSnapshot: its page map is not what was written.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return pages_of(_as_runs(_tables(fd, path.name, digest).runs))
    finally:
        os.close(fd)


def check_diff(path: Path, digest: str) -> None:
    """Check header and page map; the data is verified when the diff is applied.

    Raises:
        DamagedSnapshot: missing, torn, or not what was written.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise DamagedSnapshot(f"{path.name} is missing.") from error
    try:
        _tables(fd, path.name, digest)
    finally:
        os.close(fd)


def _as_runs(rows: NDArray[np.void]) -> PageRuns:
    return np.stack([rows["page"].astype(np.int64), rows["count"].astype(np.int64)], 1)


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """A memory image under construction: pages are written to an open file."""

    fd: int
    size_b: int

    @property
    def pages(self) -> int:
        """The image's size in pages."""
        return self.size_b // PAGE_B

    def write(self, runs: PageRuns, content: NDArray[np.uint8]) -> None:
        """Write the start of `content` to the pages of `runs`, in order."""
        view, at = content.data, 0
        for page, count in runs.tolist():
            _write(self.fd, view[at : at + count * PAGE_B], page * PAGE_B)
            at += count * PAGE_B
