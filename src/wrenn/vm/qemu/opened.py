"""Descriptors for a confined process: opened by us, inherited by it, closed afterwards."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from wrenn.base.on_failure import on_failure
from wrenn.linux.memfd import sealed_copy


class Opened:
    """Descriptors that are open only until the VMM has inherited them."""

    def __init__(self) -> None:
        self.fds: list[int] = []
        """All of them, for `spawn_confined`."""
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def take(self, fd: int) -> int:
        """Close this descriptor with the others."""
        self._stack.callback(os.close, fd)
        self.fds.append(fd)
        return fd

    def open(self, path: Path, flags: int) -> int:
        """Open a file."""
        return self.take(os.open(path, flags | os.O_CLOEXEC, 0o600))

    def pipe(self) -> tuple[int, int]:
        """Return a pipe: the end that the VMM inherits, and ours, which the caller closes."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        return self.take(reader), writer

    def socket_pair(self) -> tuple[socket.socket, int]:
        """Return two connected sockets: ours, non-blocking, which the caller closes, and the one that the process inherits."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        ours.setblocking(False)  # noqa: FBT003 - the standard library's signature
        return ours, self.take(theirs.detach())

    def copy(self, path: Path) -> int:
        """Return a copy in memory of a file that only root may read: QEMU opens it by name, as its own user."""
        return self.take(sealed_copy(path, name=path.name, on_data=lambda _offset, _data: None))

    def open_layers(self, files: tuple[Path, ...]) -> tuple[int, ...]:
        """Open the first one to be written, the others only to be read."""
        overlay, *below = files
        below_fds = [self.open(path, os.O_RDONLY) for path in below]
        return (self.open(overlay, os.O_RDWR), *below_fds)

    def listen(self, path: Path) -> int:
        """Return a listening socket made by us: root alone may connect, whoever the VMM is."""
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with on_failure(listener.close):
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(4)
        return self.take(listener.detach())
