"""Tap devices: created once in a namespace, persistent, and passed to a VMM as an open descriptor or by name."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from functools import partial
from typing import Final

from wrenn.linux.namespaces import KernelError, in_namespace, start_in_namespace

_TUNSETIFF: Final = 0x400454CA
_TUNSETPERSIST: Final = 0x400454CB
_TUNSETOWNER: Final = 0x400454CC
_TUNSETGROUP: Final = 0x400454CE
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_IFREQ: Final = struct.Struct("16sH22x")


async def create_tap(namespace: str, name: str, *, uid: int, gid: int) -> None:
    """Create a persistent tap with one queue and virtio headers that only `uid` and `gid` may open.

    Raises:
        KernelError: the name is taken, or the machine has no `/dev/net/tun`.
    """
    await in_namespace(namespace, partial(_create, name, uid, gid))


def open_tap(namespace: str, name: str) -> int:
    """Open the tap `name` in `namespace` with close-on-exec; the caller closes the descriptor.

    Raises:
        KernelError: no such namespace or tap, or it is already open.
    """
    return start_in_namespace(namespace, partial(_open, name)).result()


@dataclass(frozen=True, slots=True)
class NamedTap:
    """A tap device that a process finds by its name, when it is in the namespace."""

    namespace: str
    name: str


def give_tap(tap: NamedTap, uid: int) -> None:
    """Let the user and the group `uid`, and nobody else, open the tap.

    Raises:
        KernelError: no such namespace or tap, or it is already open.
    """
    start_in_namespace(tap.namespace, partial(_give, tap.name, uid)).result()


def _give(name: str, uid: int) -> None:
    descriptor = _open(name)
    try:
        fcntl.ioctl(descriptor, _TUNSETOWNER, uid)
        fcntl.ioctl(descriptor, _TUNSETGROUP, uid)
    except OSError as error:
        raise KernelError(f"The tap {name} could not be given away: {error.strerror}.") from error
    finally:
        os.close(descriptor)


def _create(name: str, uid: int, gid: int) -> None:
    try:
        descriptor = _attach(name)
        try:
            fcntl.ioctl(descriptor, _TUNSETOWNER, uid)
            fcntl.ioctl(descriptor, _TUNSETGROUP, gid)
            fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise KernelError(f"The tap {name} could not be made: {error.strerror}.") from error


def _open(name: str) -> int:
    try:
        socket.if_nametoindex(name)  # attaching to a missing name would create a tap of that name
        return _attach(name)
    except OSError as error:
        raise KernelError(f"The tap {name} could not be opened: {error.strerror}.") from error


def _attach(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        request = _IFREQ.pack(name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
