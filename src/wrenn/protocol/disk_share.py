"""The disk share of a sandbox: one rule for the control plane, which places sandboxes by it, and the agent, which enforces it."""

from __future__ import annotations

from typing import Final

from wrenn.base.units import MIB
from wrenn.protocol.api import DEFAULT_DISK_SIZE_MB

DISK_OVERCOMMIT: Final = 60.0
"""Overcommit factor of a host's disk. Shares are upper limits: an idle sandbox takes about 10 MB of a share
of 16 GiB."""


def disk_share_b(disk_size_mb: int, usual_b: int) -> int:
    """Return the share of a sandbox with a disk of this size; `usual_b` is the share for the default size. 0: no limit.

    A larger disk increases the share by the difference.
    """
    return usual_b + max(0, disk_size_mb - DEFAULT_DISK_SIZE_MB) * MIB if usual_b else 0


def committed_b(disk_size_mb: int, usual_b: int, *, count: int = 1) -> int:
    """Return the sum of the shares of `count` sandboxes with disks of `disk_size_mb` in total; without a limit, of their disks."""
    return disk_size_mb * MIB + count * (usual_b - DEFAULT_DISK_SIZE_MB * MIB if usual_b else 0)
