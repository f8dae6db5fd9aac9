"""Opens sockets in a network namespace, for use outside it: a socket belongs to the namespace in which it was made."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Final

from wrenn.linux.namespaces import in_namespace

_SO_MARK: Final = 36
"""Option of socket(7), which the socket module lacks before Python 3.12."""


async def open_socket(
    namespace: str, kind: socket.SocketKind, *, set_up: Callable[[socket.socket], None] | None = None
) -> socket.socket:
    """Open a non-blocking IPv4 socket in `namespace`; `set_up` runs there. The caller closes it. If cancelled, none is open.

    Raises:
        KernelError: no such namespace. OSError: `set_up` failed.
    """
    opened: list[socket.socket] = []
    try:
        await in_namespace(namespace, partial(_open, kind, set_up, opened))
    except BaseException:
        for left in opened:
            left.close()
        raise
    return opened[0]


def mark_packets(mark: int) -> Callable[[socket.socket], None]:
    """Return a `set_up` that has the socket's packets carry `mark`, which firewall rules can match."""
    return lambda opened: opened.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)


def listen_at(address: str, port: int, *, backlog: int) -> Callable[[socket.socket], None]:
    """Return a `set_up` that has the socket listen."""

    def listen(opened: socket.socket) -> None:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((address, port))
        opened.listen(backlog)

    return listen


def _open(
    kind: socket.SocketKind, set_up: Callable[[socket.socket], None] | None, opened: list[socket.socket]
) -> None:
    made = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    opened.append(made)
    if set_up is not None:
        set_up(made)
