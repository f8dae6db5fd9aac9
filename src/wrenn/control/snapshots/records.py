"""Values for snapshots and templates."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from wrenn.base.ids import HostId, SandboxId, SnapshotId, TeamId
from wrenn.control.hosts import HostEndpoint
from wrenn.protocol.vm_platform import UNKNOWN_PLATFORM, VmPlatform

DEFAULT_TEMPLATE: Final = "minimal"
"""The platform's, whether or not a host has reported it."""


class TemplateStatus(enum.StrEnum):
    """The status of a snapshot's row."""

    PENDING = "pending"
    """Somebody makes it, under a lease; or a fork needs it, under a lease."""
    READY = "ready"
    """Sandboxes may be made from it."""
    REMOVING = "removing"
    """Nobody sees it any more; its host must be told."""


NEXT: Final[dict[TemplateStatus, frozenset[TemplateStatus]]] = {
    TemplateStatus.PENDING: frozenset({TemplateStatus.READY, TemplateStatus.REMOVING}),
    TemplateStatus.READY: frozenset({TemplateStatus.REMOVING}),
    TemplateStatus.REMOVING: frozenset(),
}
assert NEXT.keys() == set(TemplateStatus), "every status says what may follow it"


def move(status: TemplateStatus, to: TemplateStatus) -> TemplateStatus:
    """Return `to`, which may follow `status`; that it may is a matter of the program, not of its input."""
    assert to in NEXT[status], f"{status} -> {to}"
    return to


@dataclass(frozen=True, slots=True)
class SnapshotSource:
    """The running or paused sandbox that a snapshot is taken of."""

    team_id: TeamId
    sandbox_id: SandboxId
    host: HostEndpoint
    image: str
    vcpus: int
    memory_mb: int
    disk_size_mb: int


@dataclass(frozen=True, slots=True)
class Template:
    """A snapshot under a team's name, from which sandboxes can be made.

    Attributes:
        host_id: the one host on which it lies.
        image: what its first ancestor was started from.
        vcpus, memory_mb, disk_size_mb: the one size that its sandboxes can have.
        platform: what a host needs to restore it, as far as that is known.
    """

    name: str
    snapshot_id: SnapshotId
    host_id: HostId
    image: str
    vcpus: int
    memory_mb: int
    disk_size_mb: int
    size_bytes: int
    created_at: datetime
    platform: VmPlatform = UNKNOWN_PLATFORM


@dataclass(frozen=True, slots=True)
class PlatformTemplate:
    """An image that hosts report, available to all teams in any size. `created_at` is that of the first such host."""

    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A snapshot with the host that stores it."""

    snapshot_id: SnapshotId
    host: HostEndpoint
    status: TemplateStatus
