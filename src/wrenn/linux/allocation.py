"""Disk blocks of files: taken before they are written, given back, and what the page cache has not written yet."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from wrenn.base.units import KIB, MIB, PAGE_B

_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2
_UNSHARE: Final = 0x40
_FIEMAP: Final = 0xC020660B
_FIEMAP_SYNC: Final = 1
_FIEMAP_HEAD: Final = struct.Struct("=2Q4I")
"""Offset and length of the part of the file; flags, extents found, room for extents, padding."""
_FIEMAP_EXTENT: Final = struct.Struct("=3Q16xI12x")
"""Offset in the file, offset on the disk, length, flags."""
_PROBE_B: Final = 16 * PAGE_B
_SYS_CACHESTAT: Final = 451
"""On all processors."""
_RANGE: Final = struct.Struct("=2Q")
"""Offset and length; zero: to the end."""
_CACHED: Final = struct.Struct("=5Q")
"""Pages: in memory, dirty, being written, evicted, recently evicted."""
_MEMINFO: Final = Path("/proc/meminfo")
_BDI: Final = Path("/sys/kernel/debug/bdi")
_BLOCK_B: Final = 512
"""Unit of `st_blocks`."""
_UNCOUNTED_B: Final = 4 * MIB
_LEFT_B: Final = 64 * MIB
"""No blocks are taken of the last bytes that are free."""

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def allocate(path: Path, start_b: int, end_b: int) -> None:
    """Take disk blocks for this part of a file, which lies within its length: writes to it then need no more space. Blocking.

    Holes are filled, and blocks that the file shares with others (reflinks) become its own.

    Raises:
        OSError: ENOSPC; some blocks may have been taken. EOPNOTSUPP: the file system cannot do that.
    """
    if start_b >= end_b:
        return
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        _require_free(fd, start_b, end_b)
        # The length stays: a file that is shorter is another one, if its loop device was given away meanwhile.
        _fallocate(fd, _KEEP_SIZE, start_b, end_b - start_b)
        try:
            _fallocate(fd, _UNSHARE | _KEEP_SIZE, start_b, end_b - start_b)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:  # else no blocks can be shared there
                raise
    finally:
        os.close(fd)


def _require_free(fd: int, start_b: int, end_b: int) -> None:
    # A file system gives what it has before it refuses, and leaves nothing for journals and databases.
    state = os.fstatvfs(fd)
    if start_b == 0:  # what was written before is at the begin
        start_b = min(end_b, os.fstat(fd).st_blocks * _BLOCK_B)
    if end_b - start_b > max(0, state.f_bavail * state.f_frsize - _LEFT_B):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def give_back(path: Path, start_b: int) -> None:
    """Give back the disk blocks of a file from an offset on; it then reads as zeros there, and keeps its length. Blocking.

    A file system that cannot do that keeps them.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        length = os.fstat(fd).st_size - start_b
        if length <= 0:
            return
        _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, start_b, length)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    finally:
        os.close(fd)


def overwrites_in_place(folder: Path) -> bool:
    """Whether the file system of a folder writes to the blocks that were taken, also when they are written again. Blocking.

    btrfs, ZFS and others write elsewhere, and so need space for every write.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        fd = file.fileno()
        try:
            os.ftruncate(fd, _PROBE_B)
            _fallocate(fd, 0, 0, _PROBE_B)
            places = [_place(fd)]
            for content in (b"1", b"2"):
                os.pwrite(fd, content * _PROBE_B, 0)
                os.fsync(fd)
                places.append(_place(fd))
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL):
                return False
            raise
    return places[0] != 0 and len(set(places)) == 1


def _place(fd: int) -> int:
    """Return where on its disk a file begins; 0 if the file system does not say that."""
    request = bytearray(_FIEMAP_HEAD.pack(0, _PROBE_B, _FIEMAP_SYNC, 0, 1, 0) + bytes(_FIEMAP_EXTENT.size))
    fcntl.ioctl(fd, _FIEMAP, request)
    *_, found, _, _ = _FIEMAP_HEAD.unpack_from(request)
    _, place, _, _ = _FIEMAP_EXTENT.unpack_from(request, _FIEMAP_HEAD.size)
    return place if found else 0


def _fallocate(fd: int, mode: int, start_b: int, length_b: int) -> None:
    # Not `os.posix_fallocate`: where the file system cannot do it, that writes to every block.
    while _libc.fallocate(fd, mode, ctypes.c_long(start_b), ctypes.c_long(length_b)):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def unwritten_b(path: Path) -> int:
    """Return an upper bound of how much of a file or block device is only in the page cache. Blocking.

    Kernels before 6.5 do not say it of one file, but of a block device if debugfs is mounted; otherwise it is what the whole machine
    has not written.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        answer = ctypes.create_string_buffer(_CACHED.size)
        if not _libc.syscall(_SYS_CACHESTAT, fd, _RANGE.pack(0, 0), answer, 0):
            _cached, dirty, writing, *_ = _CACHED.unpack(answer.raw)
            return (dirty + writing) * PAGE_B
        device = os.fstat(fd).st_rdev
    finally:
        os.close(fd)
    with suppress(OSError, ValueError):
        return unwritten_of_device_b((_BDI / f"{os.major(device)}:{os.minor(device)}" / "stats").read_text())
    return unwritten_of_machine_b(_MEMINFO.read_text())


def unwritten_of_device_b(stats: str) -> int:
    """Return an upper bound of what the page cache has for a block device and has not written, from the text of its `stats` in debugfs.

    Raises:
        ValueError: it does not say that.
    """
    try:
        # The kernel counts for each processor, and adds that up now and then.
        return _sum_b(stats, "BdiReclaimable", "BdiWriteback") + _UNCOUNTED_B
    except (KeyError, IndexError) as error:
        raise ValueError("The kernel does not say what a device has not written.") from error


def unwritten_of_machine_b(meminfo: str) -> int:
    """Return what a machine has not written, from the text of /proc/meminfo."""
    return _sum_b(meminfo, "Dirty", "Writeback")


def _sum_b(text: str, *names: str) -> int:
    """Return the sum of these fields of a text of lines `NAME: SIZE kB`."""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return sum(int(fields[name].split()[0]) for name in names) * KIB
