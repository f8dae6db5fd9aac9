"""Device-mapper: block devices that the kernel composes of others, by its own interface.

No program is run for it: a call takes microseconds instead of milliseconds, and works without udev. Events are sent with flags that tell
udev's rules to leave a device alone: its content is a guest's, and nothing on the host may probe it, activate it or hold it open.
The nodes `/dev/dm-N` are made by the kernel itself (devtmpfs); there are none below `/dev/mapper`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.base.errors import InternalError

SECTOR_B: Final = 512
_CONTROL: Final = "/dev/mapper/control"
_HEAD: Final = struct.Struct("=3I3IiIIIQ128s129s7x")
"""Version (3), sizes of data and head, number of targets, open count (signed), flags, event, padding, device, name, uuid."""
_TARGET: Final = struct.Struct("=QQiI16s")
"""First sector, length, status, offset of the next one, type."""
_LIST_ENTRY: Final = struct.Struct("=QI")
_VERSION: Final = (4, 0, 0)
_BUFFER_B: Final = 16 * 1024
_LARGEST_BUFFER_B: Final = 16 * 1024 * 1024
_ALIGNMENT: Final = 8
_NAME_LIMIT: Final = 127

_LIST_DEVICES: Final = 2
_DEV_CREATE: Final = 3
_DEV_REMOVE: Final = 4
_DEV_RENAME: Final = 5
_DEV_SUSPEND: Final = 6
_DEV_STATUS: Final = 7
_TABLE_LOAD: Final = 9
_TABLE_CLEAR: Final = 10
_TABLE_STATUS: Final = 12
_FLAG_READ_ONLY: Final = 1
_FLAG_SUSPEND: Final = 2
_FLAG_STATUS_TABLE: Final = 16
_FLAG_BUFFER_FULL: Final = 256
_NO_UDEV_RULES: Final = 0x2F << 16
"""Neither device-mapper's own rules, nor those of subsystems, disks and others; no fallback in the library."""
_BUSY_RETRY_S: Final = 0.02

_snapshot_loads: Final = threading.Lock()
"""Kernels before 6.12 refuse the table of a snapshot (ENOMEM) while they read the tables of another one's file."""

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


class DeviceMapperError(InternalError):
    """The kernel refused a call about a device. `context` has the call, the device and the kernel's error."""


@dataclass(frozen=True, slots=True)
class Target:
    """One line of a table: what a range of sectors is made of."""

    sectors: int
    kind: str
    parameters: str


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """State of a device.

    Attributes:
        open_count: how many have it open, programs and tables of other devices.
        suspended: requests wait.
    """

    number: int
    open_count: int
    suspended: bool
    read_only: bool

    @property
    def path(self) -> Path:
        """Its node."""
        return node(self.number)


def node(number: int) -> Path:
    """Return the node of a device by its number."""
    return Path(f"/dev/dm-{os.minor(number)}")


def text_of(number: int) -> str:
    """Return a device number as tables contain it."""
    return f"{os.major(number)}:{os.minor(number)}"


def number_of(text: str) -> int:
    """Return the device number that a table contains as `text`."""
    major, _, minor = text.partition(":")
    return os.makedev(int(major), int(minor))


def is_available() -> bool:
    """Return whether this kernel has device-mapper, and this process may use it."""
    try:
        os.close(os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def list_names(prefix: str) -> dict[str, int]:
    """Return the numbers of all devices whose names begin with `prefix`, by name."""
    data = _call(_LIST_DEVICES, "", "list the devices").data
    found: dict[str, int] = {}
    offset = 0
    while len(data) - offset > _LIST_ENTRY.size:
        number, following = _LIST_ENTRY.unpack_from(data, offset)
        name = _text(data[offset + _LIST_ENTRY.size :])
        if number and name.startswith(prefix):
            found[name] = _decoded(number)
        if not following:
            break
        offset += following
    return found


def create(name: str, targets: Sequence[Target], *, read_only: bool) -> int:
    """Create a device with this table and activate it; returns its number. If that fails, there is no device."""
    number = _call(_DEV_CREATE, name, "create").status.number
    try:
        load(name, targets, read_only=read_only)
        resume(name)
    except BaseException:
        _call(_DEV_REMOVE, name, "remove")
        raise
    return number


def load(name: str, targets: Sequence[Target], *, read_only: bool) -> None:
    """Load a table into a device, which becomes active with the next `resume`."""
    data = b""
    first = 0
    for target in targets:
        parameters = target.parameters.encode() + b"\0"
        parameters += bytes(-len(parameters) % _ALIGNMENT)
        size = _TARGET.size + len(parameters)
        data += _TARGET.pack(first, target.sectors, 0, size, target.kind.encode()) + parameters
        first += target.sectors
    flags = _FLAG_READ_ONLY if read_only else 0
    one_at_once = _snapshot_loads if any(target.kind == "snapshot" for target in targets) else nullcontext()
    with one_at_once:
        _call(_TABLE_LOAD, name, "load a table into", flags=flags, data=data, targets=len(targets))


def clear(name: str) -> None:
    """Forget a table that was loaded and is not active. Idempotent."""
    _call(_TABLE_CLEAR, name, "clear the table of")


def suspend(name: str) -> None:
    """Write what the device's page cache holds, wait for running requests, and let new ones wait. Idempotent."""
    _call(_DEV_SUSPEND, name, "suspend", flags=_FLAG_SUSPEND)


def resume(name: str) -> None:
    """Activate a loaded table, if there is one, and continue. Idempotent."""
    _call(_DEV_SUSPEND, name, "resume")


def rename(name: str, new: str) -> None:
    """Give a device another name, which no device has."""
    _call(_DEV_RENAME, name, "rename", data=new.encode() + b"\0")


def status(name: str) -> DeviceStatus | None:
    """Return the state of a device, or None if there is none of this name."""
    try:
        return _call(_DEV_STATUS, name, "look at").status
    except DeviceMapperError as error:
        if error.context["errno"] == errno.ENXIO:
            return None
        raise


def table(name: str) -> list[Target]:
    """Return the active table of a device."""
    return _targets(_call(_TABLE_STATUS, name, "read the table of", flags=_FLAG_STATUS_TABLE))


def target_status(name: str) -> list[Target]:
    """Return for each target of the active table what it says about its state, as `parameters`."""
    return _targets(_call(_TABLE_STATUS, name, "read the state of"))


def remove(name: str, *, timeout_s: float) -> None:
    """Remove a device; one that somebody still has open is tried again until the time is over. A missing one is ignored. Blocking.

    Raises:
        DeviceMapperError: it is still open.
    """
    end = time.monotonic() + timeout_s
    while True:
        try:
            _call(_DEV_REMOVE, name, "remove")
            return
        except DeviceMapperError as error:
            if error.context["errno"] == errno.ENXIO:
                return
            if error.context["errno"] != errno.EBUSY or time.monotonic() > end:
                raise
        time.sleep(_BUSY_RETRY_S)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: DeviceStatus
    targets: int
    data: bytes


def _call(
    command: int, name: str, doing: str, *, flags: int = 0, data: bytes = b"", targets: int = 0
) -> _Answer:
    assert len(name) <= _NAME_LIMIT, "a name that the kernel would cut"
    size = max(_BUFFER_B, _HEAD.size + len(data))
    while True:
        event = _NO_UDEV_RULES if command in (_DEV_CREATE, _DEV_SUSPEND, _DEV_REMOVE, _DEV_RENAME) else 0
        head = _HEAD.pack(*_VERSION, size, _HEAD.size, targets, 0, flags, event, 0, 0, name.encode(), b"")
        buffer = bytearray(head + data).ljust(size, b"\0")
        try:
            control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
            try:
                _ioctl(control, _request(command), buffer)
            finally:
                os.close(control)
        except OSError as error:
            raise DeviceMapperError(
                f"The kernel did not {doing} a block device: {error.strerror}.",
                context={"device": name, "call": doing, "errno": error.errno},
            ) from error
        _, _, _, used, start, count, open_count, flags_now, _, _, number, _, _ = _HEAD.unpack_from(buffer)
        if flags_now & _FLAG_BUFFER_FULL:
            size *= 4
            assert size <= _LARGEST_BUFFER_B, "a kernel's answer without end"
            continue
        state = DeviceStatus(
            _decoded(number),
            open_count,
            suspended=bool(flags_now & _FLAG_SUSPEND),
            read_only=bool(flags_now & _FLAG_READ_ONLY),
        )
        return _Answer(state, count, bytes(buffer[start:used]))


def _ioctl(fd: int, request: int, buffer: bytearray) -> None:
    """Make a call that may take as long as requests to a device do. Other threads continue.

    They would not with `fcntl.ioctl`, which keeps the interpreter's lock if the buffer is larger than 1 KiB.
    """
    while _libc.ioctl(fd, request, ctypes.addressof(ctypes.c_char.from_buffer(buffer))):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def _request(command: int) -> int:
    read_and_write, kind = 3, 0xFD
    return read_and_write << 30 | _HEAD.size << 16 | kind << 8 | command


def _targets(answer: _Answer) -> list[Target]:
    found: list[Target] = []
    offset = 0
    for _ in range(answer.targets):
        _first, length, _status, following, kind = _TARGET.unpack_from(answer.data, offset)
        found.append(Target(length, _text(kind), _text(answer.data[offset + _TARGET.size : following])))
        offset = following
    return found


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode(errors="replace")


def _decoded(number: int) -> int:
    """Return a device number that the kernel encoded."""
    return os.makedev((number & 0xFFF00) >> 8, (number & 0xFF) | ((number >> 12) & 0xFFF00))
