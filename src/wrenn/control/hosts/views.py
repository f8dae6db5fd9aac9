"""A host in the messages of the API."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from wrenn.base.units import GIB, MIB
from wrenn.control.hosts.addresses import address_of
from wrenn.control.hosts.records import Drain, HostRecord
from wrenn.control.http import wire_time, without_none


class DrainedSandboxes(BaseModel):
    """The sandboxes of a host that is drained, by what becomes of them. The host is drained when all of them are paused."""

    starting: int = Field(description="Being started or resumed since before the drain began")
    running: int
    pausing: int
    moving: int = Field(description="Being moved to another host")
    stopping: int = Field(description="Being removed")
    missing: int = Field(description="The host does not answer, so it is not known whether they run")
    paused: int = Field(description="They are on the disk of the host")


class DrainFailure(BaseModel):
    """A sandbox that could not be paused or moved. It stays as it is, and is tried again."""

    sandbox_id: str
    code: str
    reason: str


class DrainView(BaseModel):
    """The drain of a host: nothing is started there until it is taken back."""

    policy: Literal["wait", "pause", "move"]
    state: Literal["draining", "drained"] = Field(description="`drained`: no sandbox is in the host's memory")
    began_at: datetime
    drained_at: datetime | None = None
    sandboxes: DrainedSandboxes | None = Field(None, description="In the answer for one host")
    failures: list[DrainFailure] | None = Field(
        None, description="In the answer for one host: which could not be paused or moved; 100 at most"
    )


class HostView(BaseModel):
    """A host (platform reference §1.9). Optional fields are absent where they have no value."""

    id: str
    name: str
    type: Literal["regular", "byoc"]
    team_id: str | None = Field(None, description="Of a BYOC host")
    team_name: str | None = Field(None, description="In the list for admins of the platform")
    provider: str | None = None
    availability_zone: str | None = None
    arch: str | None = None
    cpu_cores: int | None = None
    memory_mb: int | None = None
    disk_gb: int | None = None
    address: str | None = Field(None, description="`HOST:PORT` of its agent, once it has registered")
    status: Literal["pending", "online", "unreachable"]
    last_heartbeat_at: datetime | None = None
    created_by: str | None = Field(None, description="A user; absent: the operator, on the server")
    created_at: datetime
    updated_at: datetime
    tags: list[str]
    agent_version: str | None = None
    accelerator: str | None = None
    cert_expires_at: datetime | None = Field(None, description="End of its agent's certificate")
    drain: DrainView | None = Field(None, description="Absent: it is not drained")


def host_json(record: HostRecord, *, with_team_name: bool = False) -> dict[str, object]:
    """`HostView`."""
    return without_none(
        {
            "id": str(record.host_id),
            "name": record.name,
            "type": record.type.value,
            "team_id": None if record.team_id is None else str(record.team_id),
            "team_name": record.team_name if with_team_name else None,
            "provider": record.provider or None,
            "availability_zone": record.availability_zone or None,
            "arch": record.arch or None,
            "cpu_cores": record.cpu_cores or None,
            "memory_mb": record.memory_b // MIB or None,
            "disk_gb": record.disk_b // GIB or None,
            "address": address_of(record.address) or None,
            "status": record.status.value,
            "last_heartbeat_at": wire_time(record.last_heartbeat_at),
            "created_by": None if record.created_by is None else str(record.created_by),
            "created_at": wire_time(record.created_at),
            "updated_at": wire_time(record.updated_at),
            "tags": list(record.tags),
            "agent_version": record.agent_version or None,
            "accelerator": record.accelerator or None,
            "cert_expires_at": wire_time(record.cert_expires_at),
            "drain": None if record.drain is None else _drain_json(record.drain),
        }
    )


def _drain_json(drain: Drain) -> dict[str, object]:
    return without_none(
        {
            "policy": drain.policy.value,
            "state": "draining" if drain.drained_at is None else "drained",
            "began_at": wire_time(drain.began_at),
            "drained_at": wire_time(drain.drained_at),
        }
    )
