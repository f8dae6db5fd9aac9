"""Messages about the load of hosts and of the platform."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from pydantic import BaseModel, Field

from wrenn.control.http import wire_time, without_none
from wrenn.control.metrics.platform_store import HostLoad
from wrenn.control.metrics.platform_usage import HostUsage, PlatformStats
from wrenn.control.metrics.ranges import StatsRange
from wrenn.control.metrics.team_types import StatsView, stats_json


class HostUsageView(BaseModel):
    """What the sandboxes of a host use at this moment, together."""

    sandboxes: int = Field(description="How many were measured")
    cpu_cores: float = Field(description="So many cores would be busy all the time")
    mem_bytes: int = Field(description="Shared memory is counted once")
    disk_bytes: int
    net_in_bytes_per_s: float
    net_out_bytes_per_s: float


class HostLoadView(BaseModel):
    """A host, what it has, and what is promised to its sandboxes."""

    id: str
    name: str
    status: str
    is_reachable: bool
    last_heartbeat_at: dt.datetime | None = None
    cpu_cores: int
    memory_mb: int
    memory_available_mb: int = Field(description="At its last report")
    disk_mb: int
    disk_available_mb: int = Field(description="At its last report")
    sandbox_limit: int
    running_count: int = Field(description="Neither ended nor paused")
    paused_count: int
    vcpus_reserved: int = Field(description="Of those that are not paused")
    memory_mb_reserved: int = Field(description="Of those that are not paused")
    disk_mb_reserved: int = Field(description="With the paused ones")
    usage: HostUsageView | None = Field(None, description="Absent: the host does not answer")


class HostLoads(BaseModel):
    """All hosts, oldest first."""

    hosts: list[HostLoadView]


class CreatesSeries(BaseModel):
    """Creates in each bucket of time, of one minute or more. The lists belong together; buckets without any are in none of them."""

    labels: list[dt.datetime] = Field(description="When the bucket begins")
    created: list[int] = Field(description="Sandboxes that run")
    failed: list[int]
    place_ms: list[float] = Field(description="Mean time until a host was chosen")
    start_ms: list[float] = Field(description="Mean time from then on until it ran")
    slowest_ms: list[int] = Field(description="The longest of these times")


class CreateFailures(BaseModel):
    """Creates that failed with one error."""

    code: str
    count: int


class PlatformStatsView(StatsView):
    """What all teams together have and had, and how creates went."""

    creates: CreatesSeries
    failures: list[CreateFailures] = Field(description="The most frequent ones first")


def hosts_json(found: Sequence[tuple[HostLoad, HostUsage | None]]) -> dict[str, object]:
    """Convert hosts to the JSON of `HostLoads`."""
    return {"hosts": [_host_json(load, usage) for load, usage in found]}


def _host_json(load: HostLoad, usage: HostUsage | None) -> dict[str, object]:
    used = None
    if usage is not None:
        used = {
            "sandboxes": usage.sandboxes,
            "cpu_cores": round(usage.cpu_cores, 3),
            "mem_bytes": usage.mem_b,
            "disk_bytes": usage.disk_b,
            "net_in_bytes_per_s": round(usage.net_in_b_per_s, 1),
            "net_out_bytes_per_s": round(usage.net_out_b_per_s, 1),
        }
    return without_none(
        {
            "id": str(load.endpoint.host_id),
            "name": load.name,
            "status": load.status,
            "is_reachable": load.is_reachable,
            "last_heartbeat_at": wire_time(load.last_heartbeat_at),
            "cpu_cores": load.cpu_cores,
            "memory_mb": load.memory_mb,
            "memory_available_mb": load.memory_available_mb,
            "disk_mb": load.disk_mb,
            "disk_available_mb": load.disk_available_mb,
            "sandbox_limit": load.sandbox_limit,
            "running_count": load.running_count,
            "paused_count": load.paused_count,
            "vcpus_reserved": load.vcpus_reserved,
            "memory_mb_reserved": load.memory_mb_reserved,
            "disk_mb_reserved": load.disk_mb_reserved,
            "usage": used,
        }
    )


def platform_json(span: StatsRange, stats: PlatformStats) -> dict[str, object]:
    """Convert statistics to the JSON of `PlatformStatsView`."""
    creates = stats.creates
    return {
        **stats_json(span, stats.totals),
        "creates": {
            "labels": [bucket.at.isoformat() for bucket in creates],
            "created": [bucket.created for bucket in creates],
            "failed": [bucket.failed for bucket in creates],
            "place_ms": [round(bucket.place_ms, 1) for bucket in creates],
            "start_ms": [round(bucket.start_ms, 1) for bucket in creates],
            "slowest_ms": [bucket.slowest_ms for bucket in creates],
        },
        "failures": [{"code": code, "count": count} for code, count in stats.failures],
    }
