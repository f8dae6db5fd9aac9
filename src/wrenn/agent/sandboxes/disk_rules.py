"""Rules that keep each sandbox within its share of the host's disk, and all of them out of the disk's reserve. Pure functions.

A sandbox that has used up its share, or that continues to write while free space is below the reserve, is suspended: its VM stops, calls
fail with 507, and it continues when there is space again. The reserve is for PostgreSQL, journals and pauses.

`disk_watch.py` applies the rules to what `disk_usage.py` measures. The less space is left, the shorter the time to the next check
(`next_check_s`), so that the fastest disk cannot write half of the reserve between two checks. `docs/design/snapshots.md` has the
calculation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wrenn.agent.sandboxes.journal import Record, SandboxSpec
from wrenn.base.errors import NoCapacity
from wrenn.base.units import GIB, MIB
from wrenn.protocol.disk_share import committed_b, disk_share_b

FASTEST_B_PER_S: Final = 4 * GIB
"""What all sandboxes of a host together may be able to write: a fast NVMe drive, or the page cache in front of a slow one."""
MAX_CHECK_INTERVAL_S: Final = 0.5
MIN_CHECK_INTERVAL_S: Final = 0.02
_FULL: Final = "The disk of its host is full, and it is suspended until space is freed there."
_SMALL_WRITES_B: Final = 4 * MIB
"""Bytes that each sandbox may write while free space is below the reserve, so that mostly idle ones are not suspended."""


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """Limits on the disk space that sandboxes may use.

    Attributes:
        reserve_b: of the host's disk, for PostgreSQL, journals and pauses.
        sandbox_b: share of a sandbox whose disk has the default size; 0: no limit.
        overcommit: how often the disk may be promised; 0: without limit.
    """

    reserve_b: int
    sandbox_b: int
    overcommit: float = 0.0

    def share_b(self, record: Record) -> int:
        """Return the bytes that this sandbox may use; 0 means no limit."""
        return disk_share_b(_disk_mb(record), self.sandbox_b)

    def require_capacity(self, spec: SandboxSpec, records: Sequence[Record], disk_b: int) -> None:
        """Check that the share of a new sandbox fits beside the shares of the others, as the control plane counts.

        Raises:
            NoCapacity: it does not.
        """
        wanted_b = committed_b(spec.disk_mb, self.sandbox_b)
        promised = sum(committed_b(_disk_mb(record), self.sandbox_b) for record in records)
        if self.overcommit and promised + wanted_b > disk_b * self.overcommit:
            raise NoCapacity(
                "The host has no room for this sandbox: its disk is promised to others (WRENN_DISK_OVERCOMMIT)."
            )


def _disk_mb(record: Record) -> int:
    return record.disk_mb or record.spec.disk_mb


def next_check_s(free_b: int, reserve_b: int) -> float:
    """Return the time until the next check, in which at most half the space above half the reserve can be written."""
    headroom_b = free_b - reserve_b // 2
    return min(MAX_CHECK_INTERVAL_S, max(MIN_CHECK_INTERVAL_S, headroom_b / 2 / FASTEST_B_PER_S))


def reason_to_suspend(
    *,
    free_b: int,
    used_b: int,
    share_b: int,
    grown_b: int,
    limits: DiskLimits,
    suspended: bool,
    waits: bool = False,
) -> str:
    """Return why a sandbox must be suspended; empty if it may run.

    `used_b` is what its files take on the host, of which `share_b` is allowed (0: all of it), and `grown_b` what they grew by since the
    disk was last above its reserve. A `suspended` one continues only when there is an eighth more space than the reserve. Of one that
    `waits`, writes wait in the kernel already, since there is no space for them.
    """
    if share_b and used_b > share_b:
        return (
            f"It has used up the {share_b // MIB} MB that a sandbox may take of its host's disk, and is suspended: "
            "make its disk larger (PATCH …/disk), which lets it take as much more, or delete it."
        )
    if waits:
        return _FULL
    reserve_b = limits.reserve_b
    if free_b >= reserve_b + (reserve_b // 8 if suspended else 0):
        return ""
    allowed_b = _SMALL_WRITES_B if free_b >= reserve_b // 4 else 0
    if grown_b > allowed_b or suspended:
        return _FULL
    return ""
