"""Resets TCP connections of this host to an address that is about to be removed, so that their programs do not wait in vain.

Uses SOCK_DESTROY of sock_diag(7) (kernel option INET_DIAG_DESTROY). Source: linux/sock_diag.h,
linux/inet_diag.h.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import struct
from collections.abc import Iterator
from typing import Final

_log = logging.getLogger(__name__)

_NETLINK_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_DESTROY: Final = 21
_ERROR: Final = 2
_DONE: Final = 3
_REQUEST: Final = 1
_ACK: Final = 4
_DUMP: Final = 0x300
_HEAD: Final = struct.Struct("=IHHII")
"""struct nlmsghdr."""
_QUERY: Final = struct.Struct("=BBBBI")
"""Start of struct inet_diag_req_v2: family, protocol, extensions, padding, states."""
_SOCKET_ID_B: Final = 48
_STATES: Final = 0xFFF & ~(1 << 10) & ~(1 << 6)
"""All states except LISTEN and TIME_WAIT."""
_REMOTE_AT: Final = 4 + 4 + 16
"""Offset of the remote address in struct inet_diag_msg: after 4 bytes of state, the ports, the local address."""


def reset_connections(address: str) -> int:
    """Reset this host's connections to `address` and return their number. Logs a warning if the kernel does not support it."""
    remote = ipaddress.IPv4Address(address).packed
    count = 0
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
    ) as netlink:
        try:
            for number, socket_id in enumerate(_connections_to(netlink, remote), start=1):
                query = _QUERY.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, _STATES) + socket_id
                count += _send(netlink, _DESTROY, _REQUEST | _ACK, number, query)
        except OSError as error:
            _log.warning("connections are not reset", extra={"address": address, "reason": str(error)})
    return count


def _connections_to(netlink: socket.socket, remote: bytes) -> list[bytes]:
    query = _QUERY.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, _STATES) + bytes(_SOCKET_ID_B)
    netlink.send(_HEAD.pack(_HEAD.size + len(query), _BY_FAMILY, _REQUEST | _DUMP, 0, 0) + query)
    found: list[bytes] = []
    while True:
        for kind, body in _messages(netlink.recv(1 << 16)):
            if kind == _DONE:
                return found
            if kind == _ERROR:
                code = -struct.unpack_from("=i", body)[0]
                raise OSError(code, "the kernel does not list its connections")
            if body[_REMOTE_AT : _REMOTE_AT + 4] == remote:
                found.append(body[4 : 4 + _SOCKET_ID_B])


def _send(netlink: socket.socket, kind: int, flags: int, number: int, body: bytes) -> bool:
    """Send one request and wait for its acknowledgement. Returns whether it had an effect."""
    netlink.send(_HEAD.pack(_HEAD.size + len(body), kind, flags, number, 0) + body)
    for answer, content in _messages(netlink.recv(1 << 16)):
        if answer == _ERROR:
            code = -struct.unpack_from("=i", content)[0]
            if code not in (0, errno.ENOENT):
                raise OSError(code, "the kernel does not reset connections")
            return code == 0
    return False


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEAD.size:
        length, kind, *_ = _HEAD.unpack_from(data)
        yield kind, data[_HEAD.size : length]
        data = data[(length + 3) & ~3 :]
