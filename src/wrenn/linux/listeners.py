"""Finds the process that listens on a TCP port of this machine, from /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TABLES: Final = ("tcp", "tcp6")
_LISTENS: Final = "0A"
"""The code of the state LISTEN in /proc/net/tcp."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A process that listens on a port. `name` is its command name, at most 15 characters."""

    pid: int
    name: str


def listener_of(port: int) -> Listener | None:
    """Return a process that listens on this port, on any address; None if this user can see none."""
    sockets = {f"socket:[{inode}]" for table in _TABLES for inode in _listening(table, port)}
    if not sockets:
        return None
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _holds(folder / "fd", sockets):
            with suppress(OSError):
                return Listener(int(folder.name), (folder / "comm").read_text(errors="replace").strip())
    return None


def _listening(table: str, port: int) -> list[str]:
    """Return the inodes of the sockets in this table that listen on the port."""
    try:
        lines = Path("/proc/net", table).read_text().splitlines()[1:]
    except OSError:
        return []  # no IPv6
    rows = [line.split() for line in lines]
    return [row[9] for row in rows if row[3] == _LISTENS and int(row[1].rpartition(":")[2], 16) == port]


def _holds(descriptors: Path, sockets: set[str]) -> bool:
    try:
        with os.scandir(descriptors) as entries:
            for entry in entries:
                with suppress(OSError):  # closed meanwhile
                    if str(Path(entry.path).readlink()) in sockets:
                        return True
    except OSError:
        pass  # ended meanwhile, or another user's
    return False
