"""Hosts as users, admins and their agents deal with them: their rows, credentials, and entries in the audit log."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from wrenn.base.errors import NotFound, Unavailable, WrennError
from wrenn.base.ids import HostId, TeamId, UserId
from wrenn.base.secrets import Secret
from wrenn.control.audit import PLATFORM_TEAM, AuditAction, Facts, Resource, Scope, Status
from wrenn.control.hosts.types import DrainPolicy, HostStatus, HostType

REGISTRATION_LIFE_S: Final = 3600.0
REFUSED_HOST: Final = "The host token is not valid or has expired: refresh it."
REFRESH_LIFE_S: Final = 60 * 86_400.0
TOKEN_PATTERN: Final = re.compile(r"[0-9a-f]{64}")
"""Of registration and refresh tokens."""


class HostDeleted(NotFound):
    """The host was deleted. Its agent removes its sandboxes when it is told this, and only then."""

    code = "host_deleted"


class HostDraining(WrennError):
    """The sandbox can be on this host only, and the host is drained: nothing is started there until that is taken back."""

    code = "host_draining"
    http_status = 503
    retryable = True


class HostNotConnected(Unavailable):
    """No connection to the host's agent came about, so the agent has not received the request."""


@dataclass(frozen=True, slots=True)
class Drain:
    """The drain of a host.

    Attributes:
        drained_at: since when no sandbox is in its memory; None: some are.
    """

    policy: DrainPolicy
    began_at: datetime
    drained_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewHost:
    """A host to be created. `team_id` None: a regular one."""

    name: str
    team_id: TeamId | None = None
    provider: str = ""
    availability_zone: str = ""


@dataclass(frozen=True, slots=True)
class HostRecord:
    """A host as the API shows it.

    Attributes:
        team_id, team_name: whose it is; None: the platform's.
        address: `https://HOST:PORT`; empty: it has not registered.
        cert_epoch: how often its certificates were withdrawn.
        created_by: None: the operator.
        drain: None: it is not drained.
    """

    host_id: HostId
    name: str
    type: HostType
    team_id: TeamId | None
    team_name: str | None
    provider: str
    availability_zone: str
    arch: str
    cpu_cores: int
    memory_b: int
    disk_b: int
    address: str
    cert_epoch: int
    status: HostStatus
    agent_version: str
    accelerator: str
    cert_expires_at: datetime | None
    last_heartbeat_at: datetime | None
    created_by: UserId | None
    created_at: datetime
    updated_at: datetime
    tags: Sequence[str]
    drain: Drain | None = None

    @property
    def log_team(self) -> TeamId:
        """The team in whose audit log the host stands: its own, or the platform."""
        return self.team_id or PLATFORM_TEAM


@dataclass(frozen=True, slots=True)
class Machine:
    """What an agent says about its machine when it registers; 0 and empty: not said."""

    arch: str = ""
    cpu_cores: int = 0
    memory_mb: int = 0
    disk_gb: int = 0


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A refresh token that was issued now. `token_id` goes into the host token that is issued with it."""

    token_id: uuid.UUID
    secret: Secret


def host_action(
    action: str, status: Status = Status.SUCCESS, scope: Scope = Scope.ADMIN, facts: Facts | None = None
) -> AuditAction:
    """Build an action on a host for the audit log."""
    return AuditAction(Resource.HOST, action, status, scope, facts or {})
