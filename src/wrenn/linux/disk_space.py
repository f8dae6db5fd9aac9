"""Free and total space of a file system, in bytes and in files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_INODES_RESERVE: Final = 16
"""One of so many inodes of a file system stays free."""


def free_b(path: Path) -> int:
    """Return how many bytes can still be written below `path`."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def total_b(path: Path) -> int:
    """Return the size of the file system that contains `path`."""
    stat = os.statvfs(path)
    return stat.f_blocks * stat.f_frsize


def has_free_inodes(path: Path) -> bool:
    """Whether the file system has room for many more files. Some have no limit of their own."""
    stat = os.statvfs(path)
    return stat.f_files == 0 or stat.f_favail * _INODES_RESERVE >= stat.f_files
