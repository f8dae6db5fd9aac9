"""What sandboxes may take of their host's disk: one rule for the control plane that places them and the agent that holds them to it."""

from __future__ import annotations

from typing import Final

from wrenn.base.units import MIB
from wrenn.protocol.api import DEFAULT_DISK_SIZE_MB

DISK_OVERCOMMIT: Final = 60.0
"""How often a host's disk may be promised. Shares are bounds: an idle sandbox takes some 10 MB of a share of 16 GiB."""


def disk_share_b(disk_size_mb: int, usual_b: int) -> int:
    """The share of a sandbox with a disk of this size, where that of one with the default size is `usual_b`; 0: no limit.

    A larger disk adds what it is larger by.
    """
    return usual_b + max(0, disk_size_mb - DEFAULT_DISK_SIZE_MB) * MIB if usual_b else 0


def promised_b(disk_size_mb: int, usual_b: int, *, count: int = 1) -> int:
    """What is promised to `count` sandboxes whose disks have together this size: their shares; without a limit, their disks."""
    return disk_size_mb * MIB + count * (usual_b - DEFAULT_DISK_SIZE_MB * MIB if usual_b else 0)
