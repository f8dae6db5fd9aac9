"""Loop devices: files as block devices, by the kernel's own interface.

Every device is made with the kernel's flag AUTOCLEAR: it ends when the last who has it open closes it, whether a program or a
device-mapper table. So the kernel counts the references, and a killed program leaves none behind.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.base.on_failure import on_failure

_CONTROL: Final = "/dev/loop-control"
_SYS: Final = Path("/sys/block")
_LOOP_SET_CAPACITY: Final = 0x4C07
_LOOP_GET_STATUS64: Final = 0x4C05
_LOOP_CONFIGURE: Final = 0x4C0A
_LOOP_CTL_GET_FREE: Final = 0x4C82
_BLKGETSIZE64: Final = 0x80081272
_READ_ONLY: Final = 1
_AUTOCLEAR: Final = 4
_DIRECT_IO: Final = 16
_INFO: Final = struct.Struct("=5Q4I64s64s32s2Q")
"""Device and inode of the file, rdev, offset, size limit, number, encryption (2), flags, file name, and unused fields."""
_CONFIG: Final = struct.Struct("=2I232s64x")
"""Descriptor of the file, block size, `_INFO`."""
_DIRECT_BLOCK_B: Final = 4096
"""Direct I/O needs requests that are aligned to the blocks of the disk below; no disk has larger ones."""
_TRIES: Final = 20
"""Another program may take the free device first."""


@dataclass(frozen=True, slots=True)
class LoopDevice:
    """An open loop device. It exists while this descriptor is open, or another one, or a table refers to it."""

    fd: int

    @property
    def number(self) -> int:
        """Its device number."""
        return os.fstat(self.fd).st_rdev

    @property
    def size_b(self) -> int:
        """Its size."""
        return int.from_bytes(fcntl.ioctl(self.fd, _BLKGETSIZE64, bytes(8)), sys.byteorder)

    def update_size(self) -> None:
        """Take over the size of its file, which has grown."""
        fcntl.ioctl(self.fd, _LOOP_SET_CAPACITY, 0)


@contextmanager
def writable(file: Path) -> Generator[LoopDevice]:
    """Make a device for the file and yield it. Reads and writes go past the page cache, where the file system can do that."""
    with _opened(file, os.O_RDWR) as fd:
        device = _create(fd, os.O_RDWR, flags=_AUTOCLEAR | _DIRECT_IO, block_b=_DIRECT_BLOCK_B)
    try:
        yield device
    finally:
        os.close(device.fd)


@contextmanager
def shared(file: Path, *, limit_b: int = 0) -> Generator[LoopDevice]:
    """Yield a read-only device of the file: an existing one, or a new one. All its readers share one page cache.

    `limit_b`: the device ends there; 0: at the end of the file. A file is always shared with the same limit.
    """
    with _opened(file, os.O_RDONLY) as fd:
        device = _find(fd, file, limit_b)
        if device is None:
            device = _create(fd, os.O_RDONLY, flags=_AUTOCLEAR | _READ_ONLY, limit_b=limit_b)
    try:
        yield device
    finally:
        os.close(device.fd)


@contextmanager
def existing(number: int) -> Generator[LoopDevice]:
    """Open a device by its number."""
    fd = os.open(f"/dev/loop{os.minor(number)}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        device = LoopDevice(fd)
        if device.number != number:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        yield device
    finally:
        os.close(fd)


def file_of(number: int) -> Path:
    """Return the path of a device's file. Raises FileNotFoundError if there is no such device."""
    path = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/loop/backing_file")
    return Path(path.read_text().rstrip("\n"))


def files_of_devices() -> dict[str, str]:
    """Return the file of each loop device of the machine, by the device's name."""
    found: dict[str, str] = {}
    for path in _SYS.glob("loop*/loop/backing_file"):
        try:
            found[path.parts[-3]] = path.read_text().rstrip("\n")
        except OSError:  # it ended meanwhile
            continue
    return found


@contextmanager
def _opened(file: Path, mode: int) -> Generator[int]:
    fd = os.open(file, mode | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield fd
    finally:
        os.close(fd)


def _find(file_fd: int, file: Path, limit_b: int) -> LoopDevice | None:
    """Return a read-only device of this file, opened; a device that is open cannot become that of another file."""
    wanted = os.fstat(file_fd)
    for name, backing in files_of_devices().items():
        if backing != str(file.resolve()):
            continue
        try:
            fd = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        with on_failure(partial(os.close, fd)):
            if _is_shared(fd, wanted, limit_b):
                return LoopDevice(fd)
        os.close(fd)
    return None


def _is_shared(fd: int, wanted: os.stat_result, limit_b: int) -> bool:
    buffer = bytearray(_INFO.size)
    try:
        fcntl.ioctl(fd, _LOOP_GET_STATUS64, buffer)
    except OSError as error:
        if error.errno == errno.ENXIO:  # it has ended
            return False
        raise
    device, inode, _rdev, offset, limit, _number, _type, _key, flags, *_ = _INFO.unpack(buffer)
    same = (device, inode, offset, limit) == (_encoded(wanted.st_dev), wanted.st_ino, 0, limit_b)
    return same and bool(flags & _READ_ONLY) and bool(flags & _AUTOCLEAR)


def _encoded(number: int) -> int:
    """Return a device number in the kernel's encoding."""
    major, minor = os.major(number), os.minor(number)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def _create(file_fd: int, mode: int, *, flags: int, block_b: int = 0, limit_b: int = 0) -> LoopDevice:
    info = _INFO.pack(0, 0, 0, 0, limit_b, 0, 0, 0, flags, b"", b"", b"", 0, 0)
    config = _CONFIG.pack(file_fd, block_b, info)
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            fd = os.open(f"/dev/loop{number}", mode | os.O_CLOEXEC)
            try:
                fcntl.ioctl(fd, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(fd)
                if error.errno != errno.EBUSY:
                    raise
            else:
                return LoopDevice(fd)
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
