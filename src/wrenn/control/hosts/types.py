"""Values of the hosts feature."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from wrenn.base.ids import HostId


class HostStatus(enum.StrEnum):
    """The status of a host, as the monitor knows it."""

    PENDING = "pending"
    """Registered, never seen."""
    ONLINE = "online"
    UNREACHABLE = "unreachable"
    """Did not answer at the last look."""


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that runs sandboxes, as its agent last described it."""

    host_id: HostId
    name: str
    address: str
    status: HostStatus
    memory_b: int
    disk_b: int
    disk_available_b: int
    sandbox_disk_b: int
    """What a sandbox of the default disk size may take of its disk; 0: no limit."""
    sandbox_limit: int
    templates: frozenset[str]
    silent_s: float
    """Seconds since it answered last, or since it was registered."""
