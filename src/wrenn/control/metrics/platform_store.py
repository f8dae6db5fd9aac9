"""Statements on hosts and creates, for admins of the platform."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text

from wrenn.base.ids import HostId
from wrenn.base.units import MIB
from wrenn.control.db import Database
from wrenn.control.hosts import HostEndpoint


@dataclass(frozen=True, slots=True)
class HostLoad:
    """A host, what it has, and what is promised to its sandboxes. Sizes of the host are those of its last report."""

    endpoint: HostEndpoint
    name: str
    status: str
    is_reachable: bool
    last_heartbeat_at: dt.datetime | None
    cpu_cores: int
    memory_mb: int
    memory_available_mb: int
    disk_mb: int
    disk_available_mb: int
    sandbox_limit: int
    running_count: int
    paused_count: int
    vcpus_reserved: int
    memory_mb_reserved: int
    disk_mb_reserved: int


@dataclass(frozen=True, slots=True)
class CreatesBucket:
    """The creates of a bucket of time. The phases are means over those that succeeded."""

    at: dt.datetime
    created: int
    failed: int
    place_ms: float
    start_ms: float
    slowest_ms: int


_HOSTS: Final = text(
    """
    SELECT h.id, h.name, h.address, h.cert_epoch, h.status, h.is_reachable, h.last_heartbeat_at, h.cpu_cores, h.memory_b,
        h.memory_available_b, h.disk_b, h.disk_available_b, h.sandbox_limit,
        coalesce(s.running, 0) AS running, coalesce(s.paused, 0) AS paused, coalesce(s.vcpus, 0) AS vcpus,
        coalesce(s.memory_mb, 0) AS memory_mb, coalesce(s.disk_mb, 0) AS disk_mb
    FROM hosts AS h LEFT JOIN (
        SELECT host_id, count(*) FILTER (WHERE status <> 'paused') AS running,
            count(*) FILTER (WHERE status = 'paused') AS paused,
            sum(vcpus) FILTER (WHERE status <> 'paused') AS vcpus,
            sum(memory_mb) FILTER (WHERE status <> 'paused') AS memory_mb, sum(disk_size_mb) AS disk_mb
        FROM sandboxes WHERE status NOT IN ('stopped', 'error') GROUP BY host_id
    ) AS s ON s.host_id = h.id
    WHERE h.deleted_at IS NULL ORDER BY h.created_at, h.id
    """
)

_ADD_CREATES: Final = text(
    """
    INSERT INTO create_minutes AS held (at, outcome, count, place_ms, start_ms, slowest_ms)
    VALUES (:at, :outcome, :count, :place_ms, :start_ms, :slowest_ms)
    ON CONFLICT (at, outcome) DO UPDATE SET count = held.count + excluded.count,
        place_ms = held.place_ms + excluded.place_ms, start_ms = held.start_ms + excluded.start_ms,
        slowest_ms = greatest(held.slowest_ms, excluded.slowest_ms)
    """
)

_CREATES: Final = text(
    """
    SELECT date_bin(make_interval(secs => :bucket_s), at, 'epoch') AS at,
        coalesce(sum(count) FILTER (WHERE outcome = 'running'), 0)::bigint AS created,
        coalesce(sum(count) FILTER (WHERE outcome <> 'running'), 0)::bigint AS failed,
        sum(place_ms)::bigint AS place_ms, sum(start_ms)::bigint AS start_ms, max(slowest_ms) AS slowest_ms
    FROM create_minutes WHERE at > now() - make_interval(secs => :span_s) GROUP BY 1 ORDER BY 1
    """
)

_FAILURES: Final = text(
    """
    SELECT outcome, sum(count)::bigint AS failed FROM create_minutes
    WHERE at > now() - make_interval(secs => :span_s) AND outcome <> 'running' GROUP BY 1 ORDER BY 2 DESC, 1
    """
)

_DELETE: Final = text("DELETE FROM create_minutes WHERE at < now() - make_interval(secs => :older_s)")


async def hosts(database: Database) -> list[HostLoad]:
    """Return all hosts, oldest first."""
    found = await database.execute(_HOSTS, repeatable=True)
    return [
        HostLoad(
            endpoint=HostEndpoint(HostId(row.id), row.address, row.cert_epoch),
            name=row.name,
            status=row.status,
            is_reachable=row.is_reachable,
            last_heartbeat_at=row.last_heartbeat_at,
            cpu_cores=row.cpu_cores,
            memory_mb=row.memory_b // MIB,
            memory_available_mb=row.memory_available_b // MIB,
            disk_mb=row.disk_b // MIB,
            disk_available_mb=row.disk_available_b // MIB,
            sandbox_limit=row.sandbox_limit,
            running_count=row.running,
            paused_count=row.paused,
            vcpus_reserved=row.vcpus,
            memory_mb_reserved=row.memory_mb,
            disk_mb_reserved=row.disk_mb,
        )
        for row in found
    ]


async def add_creates(
    database: Database, at: dt.datetime, outcome: str, values: tuple[int, int, int, int]
) -> None:
    """Add to the creates of a minute with this outcome: count, sums of both phases in ms, slowest start in ms."""
    names = ("count", "place_ms", "start_ms", "slowest_ms")
    await database.execute(
        _ADD_CREATES, {"at": at, "outcome": outcome, **dict(zip(names, values, strict=True))}
    )


async def creates(database: Database, *, span_s: float, bucket_s: float) -> list[CreatesBucket]:
    """Return the creates in each bucket of the span; buckets without any are left out."""
    found = await database.execute(_CREATES, {"span_s": span_s, "bucket_s": bucket_s}, repeatable=True)
    return [
        CreatesBucket(
            row.at,
            row.created,
            row.failed,
            row.place_ms / max(1, row.created),
            row.start_ms / max(1, row.created),
            row.slowest_ms,
        )
        for row in found
    ]


async def create_failures(database: Database, *, span_s: float) -> list[tuple[str, int]]:
    """Return how many creates failed within the span, by the code of the error, the most frequent first."""
    found = await database.execute(_FAILURES, {"span_s": span_s}, repeatable=True)
    return [(row.outcome, row.failed) for row in found]


async def delete_creates(database: Database, *, older_s: float) -> None:
    """Delete the counts of minutes that are older than that."""
    await database.execute(_DELETE, {"older_s": older_s})
