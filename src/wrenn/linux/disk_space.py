"""Room on a file system."""

from __future__ import annotations

import os
from pathlib import Path


def free_b(path: Path) -> int:
    """Bytes that may still be written below `path`."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


def total_b(path: Path) -> int:
    """Size of the file system that holds `path`."""
    stat = os.statvfs(path)
    return stat.f_blocks * stat.f_frsize
