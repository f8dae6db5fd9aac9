"""Values of the audit log: who did what to which resource, and who may read it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from wrenn.base.ids import AuditId, TeamId

PLATFORM_TEAM: Final = TeamId(uuid.UUID(int=0))
"""In whose log the platform's own affairs stand: its admins read it."""
_TEXT_LIMIT: Final = 256
"""Of each name and text in an entry; longer ones are cut."""
_FACTS_LIMIT: Final = 16

Facts = Mapping[str, str | int | bool]


class ActorKind(StrEnum):
    """The kind of an actor (platform reference §8.1)."""

    USER = "user"
    API_KEY = "api_key"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who performed an action. `actor_id` is the id on the wire, empty for the system."""

    kind: ActorKind
    actor_id: str
    name: str


SYSTEM: Final = Actor(ActorKind.SYSTEM, "", "")
"""What nobody asked for: time-outs, the end of a host."""


class Resource(StrEnum):
    """The type of the resource that an entry is about."""

    SANDBOX = "sandbox"
    SNAPSHOT = "snapshot"
    TEAM = "team"
    API_KEY = "api_key"
    MEMBER = "member"
    HOST = "host"
    USER = "user"
    TEMPLATE = "template"
    BUILD = "build"
    REGISTRY = "registry"
    CHANNEL = "channel"


class Scope(StrEnum):
    """Which members of a team may read an entry."""

    TEAM = "team"
    """Everyone."""
    ADMIN = "admin"
    """Owner and admins."""


class Status(StrEnum):
    """The severity of an entry."""

    SUCCESS = "success"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class AuditAction:
    """An action as the audit log records it, independent of who performed it on what.

    Attributes:
        facts: a few short values. Never a secret: the log is kept, and read by the whole team.
    """

    resource: Resource
    action: str
    status: Status = Status.SUCCESS
    scope: Scope = Scope.TEAM
    facts: Facts = field(default_factory=dict[str, str | int | bool])


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the audit log, as it is read."""

    entry_id: AuditId
    actor: Actor
    resource: str
    resource_id: str
    action: str
    scope: str
    status: str
    facts: Mapping[str, object]
    created_at: datetime


def short(text: str) -> str:
    """Cut a text to the length that an entry may have."""
    return text[:_TEXT_LIMIT]


def short_facts(facts: Facts) -> dict[str, str | int | bool]:
    """Cut facts to what an entry may have."""
    assert len(facts) <= _FACTS_LIMIT, "an entry tells little"
    return {name: short(value) if isinstance(value, str) else value for name, value in facts.items()}
