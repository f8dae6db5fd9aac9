"""Values for snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from wrenn.base.ids import BuildId, SandboxId, SnapshotId, TeamId
from wrenn.control.hosts import HostEndpoint
from wrenn.control.templates import Defaults, TemplateStatus


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
class NewVersion:
    """The version of a template that a hidden snapshot becomes.

    Attributes:
        owner: of the template; None: the platform.
        build_key: what led to it; None: it is not known.
        built_at: when the oldest of its content was made; None: now.
    """

    owner: TeamId | None
    name: str
    tags: Sequence[str]
    defaults: Defaults
    labels: Mapping[str, str]
    build_id: BuildId
    build_key: str | None
    built_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A snapshot with the host that stores it."""

    snapshot_id: SnapshotId
    host: HostEndpoint
    status: TemplateStatus
