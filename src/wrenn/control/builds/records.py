"""Values for builds."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from wrenn.base.errors import AccessLost
from wrenn.base.ids import BuildId, KeyId, SandboxId, TeamId, UserId
from wrenn.control.audit import PLATFORM_TEAM, ActorKind


class BuildStatus(enum.StrEnum):
    """The status of a build."""

    PENDING = "pending"
    """No worker has it yet."""
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED: Final = frozenset({BuildStatus.SUCCESS, BuildStatus.FAILED, BuildStatus.CANCELLED})


class Phase(enum.StrEnum):
    """The part of a build that a step belongs to (platform reference §7.2)."""

    PRE_BUILD = "pre-build"
    RECIPE = "recipe"
    POST_BUILD = "post-build"


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What a build was asked to do. It was checked before it was stored.

    Attributes:
        recipe: lines of platform reference §7.3; empty if there is a Dockerfile.
        dockerfile: its text; empty if there is a recipe.
        base_template: what a recipe without FROM starts from.
        healthcheck: of platform reference §7.4; empty: none.
        skip_pre_post: without the steps before and after the recipe.
        use_cache: steps whose result is kept are not run again.
    """

    recipe: tuple[str, ...]
    dockerfile: str
    build_args: Mapping[str, str]
    base_template: str
    healthcheck: str
    skip_pre_post: bool
    use_cache: bool

    def to_json(self) -> dict[str, Any]:
        """Return the form in which the row has it."""
        return {
            "recipe": list(self.recipe),
            "dockerfile": self.dockerfile,
            "build_args": dict(self.build_args),
            "base_template": self.base_template,
            "healthcheck": self.healthcheck,
            "skip_pre_post": self.skip_pre_post,
            "use_cache": self.use_cache,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BuildRequest:
        """Read what `to_json` returned, perhaps without its texts."""
        fields: dict[str, Any] = {"dockerfile": "", "build_args": {}, **value}
        fields["recipe"] = tuple(value.get("recipe", ()))
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Build:
    """A build as its row describes it."""

    build_id: BuildId
    team_id: TeamId
    name: str
    tags: tuple[str, ...]
    request: BuildRequest
    archive_key: str | None
    vcpus: int
    memory_mb: int
    disk_size_mb: int
    status: BuildStatus
    is_cancel_requested: bool
    current_step: int
    total_steps: int
    error_code: str
    error: str
    attempts: int
    sandbox_id: SandboxId | None
    template_id: UUID | None
    created_by: Mapping[str, str] | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @property
    def holder(self) -> KeyId | UserId | None:
        """The API key or user who asked for it, and whose access it needs until its end; None: the platform itself."""
        by = self.created_by
        if by is None:
            return None
        return KeyId.parse(by["id"]) if by["type"] == ActorKind.API_KEY else UserId.parse(by["id"])

    @property
    def owner(self) -> TeamId | None:
        """The owner of what it makes: its team; None: the platform, whose team builds for all."""
        return owner_of(self.team_id)


def access_lost() -> AccessLost:
    """Build the error for a build whose holder lost the access that it needs."""
    return AccessLost("Who asked for the build has no access to the team any more.")


def owner_of(team_id: TeamId) -> TeamId | None:
    """Return the owner of what builds of a team make; None: the platform."""
    return None if team_id == PLATFORM_TEAM else team_id


class LogKind(enum.StrEnum):
    """What an entry of a build's log is."""

    STEP = "step"
    """A step begins: `phase`, `cmd`."""
    STDOUT = "stdout"
    """Output: `text`."""
    STDERR = "stderr"
    """Output: `text`."""
    END = "end"
    """The step ended: `ok`, `exit`, `elapsed_ms`, `cached`."""
    NOTE = "note"
    """The worker says something: `text`."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of a build's log; `entry_id` grows."""

    entry_id: int
    attempt: int
    step: int
    kind: LogKind
    data: Mapping[str, Any]
    at: datetime
