"""Values for templates."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import BuildId, HostId, ImageId, SandboxId, SnapshotId, TeamId
from wrenn.protocol.api import TEMPLATE_NAME_PATTERN
from wrenn.protocol.vm_platform import VmPlatform

DEFAULT_TEMPLATE: Final = "minimal"
"""The platform's, whether or not a host has reported it. Its id is the zero UUID (platform reference §3.1)."""
LATEST: Final = "latest"
"""The tag that a reference without one means."""
BAD_NAME: Final = "must be 1 to 64 letters, digits, '.', '_' or '-', and begin with a letter or digit."
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class TemplateType(enum.StrEnum):
    """What a template consists of."""

    BASE = "base"
    """A root file system, which each host boots once for each size."""
    SNAPSHOT = "snapshot"
    """Memory, processes and disk of a sandbox."""


class TemplateStatus(enum.StrEnum):
    """The status of a template's or hidden snapshot's row."""

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
class Reference:
    """What a user writes for a template: `name`, `name:tag`, or the UUID of one version.

    Attributes:
        tag: None if none was written, which means `latest` where one version is meant.
        template_id: of a UUID; the name is empty then.
    """

    name: str
    tag: str | None = None
    template_id: UUID | None = None

    @classmethod
    def parse(cls, text: str, *, field: str) -> Reference:
        """Parse a reference.

        Raises:
            InvalidRequest: it cannot be one; the message names `field`.
        """
        if _UUID.fullmatch(text) is not None:
            return cls("", None, UUID(text))
        name, colon, tag = text.partition(":")
        if TEMPLATE_NAME_PATTERN.fullmatch(name) is None:
            raise InvalidRequest(f"{field}: {BAD_NAME}")
        if colon and TEMPLATE_NAME_PATTERN.fullmatch(tag) is None:
            raise InvalidRequest(f"{field}: the tag after ':' {BAD_NAME}")
        return cls(name, tag if colon else None)

    def __str__(self) -> str:
        if self.template_id is not None:
            return str(self.template_id)
        return self.name if self.tag is None else f"{self.name}:{self.tag}"


@dataclass(frozen=True, slots=True)
class Defaults:
    """What applies to commands for which a request says nothing; empty: what the guest does without."""

    user: str = ""
    working_dir: str = ""
    env: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Template:
    """One version of a template: sandboxes can be made from it.

    Attributes:
        team_id: its owner; None: the platform.
        tags: in order; those that refer to it now.
        image: what it, or its first ancestor, was started from, as hosts name it.
        image_id: that image in the store; None: hosts build it themselves.
        host_id: of a snapshot, or of an image that is not in the store yet: the host on which it was made.
        stored_image_id: of a snapshot: the image that it is in the store; None: it is not there (yet).
        copies: other hosts that fetched the snapshot, some of them if they are many.
        is_layer: it is a layer of a build, which stays on its host.
        sandbox_id: of a snapshot: the sandbox that it was taken of, which may be gone.
        vcpus, memory_mb, disk_size_mb: of a snapshot the one size that its sandboxes can have; of a base the default
            size, and the least disk.
        vm_platform: of a snapshot: what a host needs to restore it, as far as that is known.
        built_at: when the oldest of its content was made; None: no build made it, or it is not known.
    """

    template_id: UUID
    team_id: TeamId | None
    name: str
    type: TemplateType
    tags: tuple[str, ...]
    image: str
    image_id: ImageId | None
    host_id: HostId | None
    vcpus: int
    memory_mb: int
    disk_size_mb: int
    vm_platform: VmPlatform
    size_bytes: int
    defaults: Defaults
    labels: Mapping[str, str]
    build_id: BuildId | None
    created_by: Mapping[str, str] | None
    created_at: datetime
    built_at: datetime | None = None
    stored_image_id: ImageId | None = None
    copies: frozenset[HostId] = frozenset()
    is_layer: bool = False
    sandbox_id: SandboxId | None = None

    @property
    def is_platform(self) -> bool:
        """Whether it is for all teams."""
        return self.team_id is None

    @property
    def snapshot_id(self) -> SnapshotId | None:
        """The snapshot that it consists of; None: a base."""
        return SnapshotId(self.template_id) if self.type is TemplateType.SNAPSHOT else None


@dataclass(frozen=True, slots=True)
class HostBuiltTemplate:
    """A template that hosts built themselves and report, available to all teams in any size.

    `created_at` is that of the first such host.
    """

    name: str
    created_at: datetime
