"""Operations on files that are atomic: a file is complete or does not exist."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wrenn.base.errors import StorageFull
from wrenn.base.units import MIB

_COPY_CHUNK_B: Final = 1 * MIB


def fsync_path(path: Path) -> None:
    """Flush a file or a directory to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: Path, content: object, *, durable: bool) -> None:
    """Replace `path` atomically by `content` as JSON, mode 600.

    With `durable` the file also survives a power failure. Otherwise it survives the death of any process,
    which is sufficient for the record of a running VM.

    Raises:
        StorageFull: the disk is full.
    """
    scratch = path.with_name(f".{path.name}.new")
    try:
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, sort_keys=True)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        scratch.rename(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise translated(error, doing=f"write {path.name}") from error
    if durable:
        fsync_path(path.parent)


def translated(error: OSError, *, doing: str) -> Exception:
    """Return StorageFull if `error` means that the disk is full, otherwise `error` itself."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"The disk of the host is full: could not {doing}. Free some space and try again.")
    return error


def data_extents(fd: int) -> Iterator[tuple[int, int]]:
    """Yield the data extents of a sparse file as (start, end), without its holes."""
    size = os.fstat(fd).st_size
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def read_data(fd: int) -> Iterator[tuple[int, bytes]]:
    """Yield the data of a sparse file as (offset, bytes), without its holes. Offsets are multiples of the page size."""
    for start, end in data_extents(fd):
        offset = start
        while offset < end:
            data = os.pread(fd, min(_COPY_CHUNK_B, end - offset), offset)
            if not data:  # it was truncated meanwhile
                return
            yield offset, data
            offset += len(data)


def write_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def copy_sparse(source_fd: int, destination_fd: int) -> None:
    """Copy the data of a sparse file and preserve its holes."""
    os.ftruncate(destination_fd, os.fstat(source_fd).st_size)
    for offset, data in read_data(source_fd):
        write_at(destination_fd, data, offset)


def copy_file(source: Path, destination: Path) -> None:
    """Copy a sparse file to a new file, mode 600. Blocks are shared (reflink) if the file system supports it.

    Raises:
        StorageFull: the disk is full; the destination is removed.
    """
    try:
        with source.open("rb") as reader:
            fd = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                copy_sparse(reader.fileno(), fd)
            finally:
                os.close(fd)
    except OSError as error:
        destination.unlink(missing_ok=True)
        raise translated(error, doing=f"copy {source.name}") from error


def link_or_copy(source: Path, destination: Path) -> None:
    """Create a hard link `destination`, or a copy if the file system does not support links.

    Raises:
        StorageFull: the disk is full.
    """
    try:
        destination.hardlink_to(source)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise translated(error, doing=f"link {source.name}") from error
        copy_file(source, destination)


async def remove_file(path: Path) -> None:
    """Remove a file. A missing file is ignored."""
    await asyncio.to_thread(path.unlink, missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a directory tree. A missing directory is ignored."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
