"""Free and total space of a file system."""

from __future__ import annotations

import os
from pathlib import Path


def free_b(path: Path) -> int:
    """Return how many bytes can still be written below `path`."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def total_b(path: Path) -> int:
    """Return the size of the file system that contains `path`."""
    stat = os.statvfs(path)
    return stat.f_blocks * stat.f_frsize
