"""Sandboxes as values: what a row says, what a worker leased, what the owner asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from wrenn.base.ids import HostId, SandboxId, TeamId
from wrenn.control.sandboxes.state import Desired, State

DISK_SIZE_MB = 5120
"""Size of every sandbox's disk, as its template has it."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What the owner asked for, with all defaults filled in."""

    template: str
    vcpus: int
    memory_mb: int
    timeout_sec: int
    envs: Mapping[str, str]

    def digest(self) -> bytes:
        """The same for the same request: tells a repetition from another request under the same key."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).digest()


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The caller's name for a request, and the request's digest."""

    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One row, without the parts that only workers need."""

    sandbox_id: SandboxId
    team_id: TeamId
    host_id: HostId
    status: State
    desired: Desired
    failure: str
    reason: str
    version: int
    template: str
    vcpus: int
    memory_mb: int
    timeout_sec: int
    host_ip: str
    metadata: Mapping[str, str]
    created_at: datetime
    started_at: datetime | None
    last_active_at: datetime | None
    last_updated: datetime


@dataclass(frozen=True, slots=True)
class Work:
    """A leased sandbox with something to do for it."""

    sandbox_id: SandboxId
    team_id: TeamId
    host_address: str
    status: State
    desired: Desired
    spec: Spec
    disk_size_mb: int
    attempts: int
    version: int
    age_s: float
    """Since the request to create it."""
