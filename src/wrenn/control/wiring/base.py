"""What the features of the control plane need to be built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from wrenn.base.clock import Clock
from wrenn.base.loops import Loop
from wrenn.control.db import Database
from wrenn.control.hosts import (
    Authority,
    HostClients,
    RecentHosts,
)
from wrenn.control.metrics import (
    CreateCounts,
)
from wrenn.control.platform_metrics import PlatformMetrics
from wrenn.control.sandboxes import (
    SandboxSizeLimits,
)
from wrenn.control.settings import Settings


class Looping(Protocol):
    """A service with a background loop."""

    loop: Loop

    async def run(self) -> None:
        """Run the loop until cancelled."""
        ...


@dataclass(frozen=True, slots=True)
class Base:
    """What every feature needs. `owner` names this replica, in leases and hints.

    `loops_database`: for loops that work on all hosts or rows, so that they never take the connections that requests need.
    """

    settings: Settings
    database: Database
    loops_database: Database
    hosts: RecentHosts
    clients: HostClients
    clock: Clock
    owner: str
    metrics: PlatformMetrics
    create_counts: CreateCounts
    authority: Authority


def size_limits(settings: Settings) -> SandboxSizeLimits:
    """Return the sizes that a sandbox may have."""
    return SandboxSizeLimits(
        settings.max_vcpus, settings.min_memory_mb, settings.max_memory_mb, settings.max_disk_mb
    )
