"""Copy-on-write files as the kernel's `dm-snapshot` writes them: what one layer of a disk changed.

The kernel alone writes them while a VM runs, and a guest has no access to more than the disk they make up; but a file may come from
another host. So everything that is read from one is checked here before the kernel gets it.

A file is a row of chunks of 4 KiB: a header, then groups of one table and the 256 chunks that its entries name. An entry is the number of
a chunk of the disk and that of the chunk in this file that holds its content; a zero ends the tables. The kernel takes chunks in order, so
the used part has no gaps, and the rest of the file is a hole.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from wrenn.base.units import MIB
from wrenn.linux.files import data_extents, translated, write_at
from wrenn.storage.errors import DamagedSnapshot

CHUNK_B: Final = 4096
_SECTORS: Final = CHUNK_B // 512
_HEADER: Final = struct.Struct("<4I")
"""Magic, valid, version, sectors of a chunk."""
_MAGIC: Final = 0x70416E53
_VERSION: Final = 1
_ENTRIES: Final = CHUNK_B // 16
"""Of a table."""
_GROUP: Final = _ENTRIES + 1
_FIRST_TABLE: Final = 1
_SPARE: Final = 4
"""Header, the empty table after a full last one, and two that are never used."""
_PIECE_CHUNKS: Final = 256
_DIGEST_LIMIT_CHUNKS: Final = 64 * MIB // CHUNK_B
"""Up to here a digest costs less than 20 ms; of larger layers only the size is compared."""


@dataclass(frozen=True, slots=True)
class CowContent:
    """What a file says that it holds, checked.

    Attributes:
        chunks: pairs of chunk of the disk and chunk of the file, in the order of the file.
        used_chunks: so many at the start of the file are all that a reader needs.
    """

    chunks: NDArray[np.int64]
    used_chunks: int


def file_chunks(disk_chunks: int) -> int:
    """Return how long a file must be so that every chunk of the disk can be written: then it is never full.

    The kernel makes a snapshot unusable for good when its file is full.
    """
    return disk_chunks + -(-disk_chunks // _ENTRIES) + _SPARE


def space_b(size_b: int) -> int:
    """Return how much of a file so much more content takes at most, with its tables."""
    chunks = -(-size_b // CHUNK_B)
    return (chunks + -(-chunks // _ENTRIES)) * CHUNK_B


def disk_chunks(chunks: int) -> int:
    """Return for how large a disk a file of this length was made: the inverse of `file_chunks`; 0 if there is none."""
    size = max(0, (chunks - _SPARE) * _ENTRIES // _GROUP)
    return size if size and file_chunks(size) == chunks else 0


def create(path: Path, *, size_b: int) -> None:
    """Create a file that changes nothing, for a disk of this size.

    Raises:
        StorageFull: no room; there is no file then.
    """
    assert size_b > 0, "a disk has a size"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # With a header the kernel can open it read-only at once. The first table is a hole, and so empty.
        os.pwrite(fd, _HEADER.pack(_MAGIC, 1, _VERSION, _SECTORS).ljust(CHUNK_B, b"\0"), 0)
        os.ftruncate(fd, file_chunks(-(-size_b // CHUNK_B)) * CHUNK_B)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise translated(error, doing="create a part of a disk") from error
    finally:
        os.close(fd)


def enlarge(path: Path, *, size_b: int) -> None:
    """Make room for a disk of this size. Never smaller."""
    wanted_b = file_chunks(-(-size_b // CHUNK_B)) * CHUNK_B
    if path.stat().st_size < wanted_b:
        os.truncate(path, wanted_b)


def disk_size_b(path: Path) -> int:
    """Return for how large a disk the file was made; 0 if it is not of a length that `create` makes."""
    size_b = path.stat().st_size
    return disk_chunks(size_b // CHUNK_B) * CHUNK_B if size_b % CHUNK_B == 0 else 0


def inspect(path: Path) -> CowContent:
    """Read and check the header and all tables.

    Raises:
        DamagedSnapshot: it cannot be what the kernel wrote, or the kernel has given it up.
    """
    with path.open("rb") as file:
        fd = file.fileno()
        size_b = os.fstat(fd).st_size
        header = os.pread(fd, _HEADER.size, 0)
        if len(header) != _HEADER.size or not disk_chunks(size_b // CHUNK_B) or size_b % CHUNK_B:
            raise _damaged(path, "size")
        if _HEADER.unpack(header) != (_MAGIC, 1, _VERSION, _SECTORS):
            raise _damaged(path, "header")
        tables: list[NDArray[np.int64]] = []
        at = _FIRST_TABLE
        while at < size_b // CHUNK_B:
            table = np.frombuffer(os.pread(fd, CHUNK_B, at * CHUNK_B), dtype="<i8").reshape(-1, 2)
            count = int(np.argmin(table[:, 1] != 0)) if (table[:, 1] == 0).any() else _ENTRIES
            tables.append(table[:count])
            if count < _ENTRIES:
                break
            at += _GROUP
        else:
            raise _damaged(path, "tables")
    chunks = np.concatenate(tables).astype(np.int64)
    _check(path, chunks, at, size_b // CHUNK_B)
    return CowContent(chunks, max(at, int(chunks[:, 1].max(initial=0))) + 1)


def _check(path: Path, chunks: NDArray[np.int64], last_table: int, length: int) -> None:
    of_disk, of_file = chunks[:, 0], chunks[:, 1]
    if ((of_disk < 0) | (of_disk >= disk_chunks(length))).any():
        raise _damaged(path, "chunk of the disk")
    if ((of_file <= _FIRST_TABLE) | (of_file >= length)).any():
        raise _damaged(path, "chunk of the file")
    tables = (of_file - _FIRST_TABLE) % _GROUP == 0
    if (tables & (of_file <= last_table)).any():
        raise _damaged(path, "a table as content")
    if len(np.unique(of_disk)) != len(of_disk) or len(np.unique(of_file)) != len(of_file):
        raise _damaged(path, "a chunk twice")


def digest(path: Path) -> str:
    """Return a digest of the content; empty if there is much of it. Which parts of the file are holes makes no difference."""
    state = xxhash.xxh3_128()
    found = 0
    with path.open("rb") as file:
        for first, piece in _pieces(file.fileno()):
            holds = piece.any(axis=1)
            found += int(holds.sum())
            if found > _DIGEST_LIMIT_CHUNKS:
                return ""
            for index in np.flatnonzero(holds):
                state.update(int(first + index).to_bytes(8, "little"))
                state.update(piece[index].data)
    return state.hexdigest()


def _pieces(fd: int) -> Generator[tuple[int, NDArray[np.uint8]]]:
    """Yield the data of a sparse file: number of the first chunk, and an array with one row for each chunk."""
    done = 0
    for start, end in data_extents(fd):
        # An extent may begin and end within a chunk.
        first, last = max(done, start // CHUNK_B), -(-end // CHUNK_B)
        for at in range(first, last, _PIECE_CHUNKS):
            size_b = min(_PIECE_CHUNKS, last - at) * CHUNK_B
            content = os.pread(fd, size_b, at * CHUNK_B).ljust(size_b, b"\0")
            yield at, np.frombuffer(content, dtype=np.uint8).reshape(-1, CHUNK_B)
        done = max(done, last)


def apply(path: Path, image_fd: int) -> Generator[int]:
    """Write the chunks of the file to their places in an image; yields the bytes of each piece that was done.

    Content beyond the end of the image is not written: the disk was larger than what is asked for.

    Raises:
        DamagedSnapshot: the file is not what the kernel writes.
    """
    image_b = os.fstat(image_fd).st_size
    chunks = inspect(path).chunks
    chunks = chunks[np.argsort(chunks[:, 1], kind="stable")]
    with path.open("rb") as file:
        for of_disk, of_file, count in _runs(chunks):
            size_b = min(count * CHUNK_B, max(0, image_b - of_disk * CHUNK_B))
            content = os.pread(file.fileno(), size_b, of_file * CHUNK_B)
            if len(content) != size_b:
                raise _damaged(path, "length")
            write_at(image_fd, content, of_disk * CHUNK_B)
            yield count * CHUNK_B


def absorb(path: Path, above: Path) -> Generator[int]:
    """Lay the content of the file `above` over that of `path`, which only this function has filled; yields the bytes of each piece.

    If it is not run to its end, `path` is useless.

    Raises:
        DamagedSnapshot: a file is not what the kernel writes, or there is no space in `path`. StorageFull: no room.
    """
    before, added = inspect(path).chunks, inspect(above).chunks
    added = added[np.argsort(added[:, 1], kind="stable")]
    order = np.argsort(before[:, 0], kind="stable")
    at = np.searchsorted(before[order, 0], added[:, 0])
    known = np.zeros(len(added), dtype=np.bool_)
    inside = at < len(before)
    known[inside] = before[order[at[inside]], 0] == added[inside, 0]
    numbers = np.empty(len(added), dtype=np.int64)
    numbers[known] = order[at[known]]
    numbers[~known] = len(before) + np.arange(np.count_nonzero(~known))
    # The number of an entry says where its content is: chunks are taken in order.
    places = _FIRST_TABLE + numbers // _ENTRIES * _GROUP + 1 + numbers % _ENTRIES
    entries = np.concatenate([before, np.stack([added[~known, 0], places[~known]], 1)])
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if len(entries) > disk_chunks(os.fstat(fd).st_size // CHUNK_B):
            raise _damaged(path, "space")
        with above.open("rb") as file:
            for to, of_file, count in _runs(np.stack([places, added[:, 1]], 1)):
                content = os.pread(file.fileno(), count * CHUNK_B, of_file * CHUNK_B)
                write_at(fd, content.ljust(count * CHUNK_B, b"\0"), to * CHUNK_B)
                yield count * CHUNK_B
        for table in range(len(before) // _ENTRIES, -(-len(entries) // _ENTRIES)):
            content = entries[table * _ENTRIES : (table + 1) * _ENTRIES].astype("<i8").tobytes()
            write_at(fd, content, (_FIRST_TABLE + table * _GROUP) * CHUNK_B)
    except OSError as error:
        raise translated(error, doing="merge the parts of a disk") from error
    finally:
        os.close(fd)


def _runs(chunks: NDArray[np.int64]) -> Generator[tuple[int, int, int]]:
    """Yield runs that are consecutive on both sides, each at most a piece: chunk of the disk, chunk of the file, number."""
    if not len(chunks):
        return
    ends = np.flatnonzero((np.diff(chunks, axis=0) != 1).any(axis=1)) + 1
    first = 0
    for end in itertools.chain(map(int, ends), (len(chunks),)):
        for at in range(first, end, _PIECE_CHUNKS):
            yield int(chunks[at, 0]), int(chunks[at, 1]), min(_PIECE_CHUNKS, end - at)
        first = end


def _damaged(path: Path, reason: str) -> DamagedSnapshot:
    return DamagedSnapshot(
        f"A part of the disk, {path.stem}, is not what was saved.", context={"reason": reason}
    )
