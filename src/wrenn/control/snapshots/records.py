"""Values for snapshots."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from wrenn.base.ids import BuildId, ImageId, SandboxId, SnapshotId, TeamId
from wrenn.control.hosts import HostEndpoint
from wrenn.control.templates import Defaults, TemplateStatus


class SnapshotUploads(enum.StrEnum):
    """When snapshots that templates consist of are uploaded to the store, from where other hosts can fetch them."""

    NEVER = "never"
    """Sandboxes are created from a snapshot on its host alone."""
    WHEN_NEEDED = "when-needed"
    """When a sandbox is created from it on another host."""
    ALWAYS = "always"
    """In the background, when it is taken: it outlives its host."""


class MayReplace(enum.Enum):
    """Which template of the same name a new snapshot may take the place of."""

    NOTHING = enum.auto()
    SNAPSHOTS = enum.auto()
    """One that consists of snapshots alone."""
    ANYTHING = enum.auto()


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
    """A snapshot on a host.

    Attributes:
        is_copy: the host fetched it, or began to; False: it was taken there.
        used_at: of a copy: when a sandbox was last created from it; and `idle_s` ago.
        is_unused: of a copy: that is long ago.
        layers: of a copy: bytes of the layers of its disk, which other snapshots may have too, by id.
    """

    snapshot_id: SnapshotId
    host: HostEndpoint
    status: TemplateStatus
    is_copy: bool = False
    used_at: datetime | None = None
    idle_s: float = 0.0
    is_unused: bool = False
    layers: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class SnapshotFiles:
    """Where the files of a snapshot are.

    Attributes:
        owner: of its template; None: the platform.
        host: where it was taken.
        image_id: the image that it is in the store; None: it is not there.
    """

    snapshot_id: SnapshotId
    owner: TeamId | None
    host: HostEndpoint
    image_id: ImageId | None
