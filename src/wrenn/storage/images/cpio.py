"""Writer of the `newc` archives that Linux takes as an initramfs. The same content gives the same bytes."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import Final

_ALIGN: Final = 4
_TRAILER: Final = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive, owned by root with time 0.

    Attributes:
        name: path without a leading slash.
        mode: file type and permissions.
        content: of a regular file.
        device: major and minor number of a device node.
    """

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str) -> Entry:
    """A directory, mode 755."""
    return Entry(name, stat.S_IFDIR | 0o755)


def regular(name: str, content: bytes, *, permissions: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(name, stat.S_IFREG | permissions, content)


def character_device(name: str, major: int, minor: int) -> Entry:
    """A character device, mode 600."""
    return Entry(name, stat.S_IFCHR | 0o600, device=(major, minor))


def archive(entries: list[Entry]) -> bytes:
    """The archive; sorted by name, so that a directory comes before what it holds."""
    ordered = sorted(entries, key=lambda entry: entry.name)
    assert len({entry.name for entry in ordered}) == len(ordered), "a name twice in one archive"
    members = [_member(number, entry) for number, entry in enumerate(ordered, start=1)]
    return b"".join([*members, _member(0, Entry(_TRAILER, 0))])


def _member(inode: int, entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device, len(name), 0,
    )  # fmt: skip
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGN)
