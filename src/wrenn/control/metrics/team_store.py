"""Statements on what teams have over time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text

from wrenn.base.ids import TeamId
from wrenn.control.db import Database
from wrenn.control.metrics.tables import PLATFORM

BUCKET_S: Final = 300.0
"""The width of the buckets of `team_usage`."""
FINE_SPAN_S: Final = 86_400
"""Series that go further back are made of those buckets; samples need not be kept for longer."""


@dataclass(frozen=True, slots=True)
class TeamTotals:
    """What a team has at a moment, or at most within some time.

    Attributes:
        vcpus: of its running sandboxes.
        memory_mb: of its running sandboxes, and half of that of its paused ones.
    """

    running_count: int
    vcpus: int
    memory_mb: int


@dataclass(frozen=True, slots=True)
class TotalsBucket:
    """The highest values within a bucket of time that begins at `at`."""

    at: dt.datetime
    totals: TeamTotals


@dataclass(frozen=True, slots=True)
class UsageDay:
    """What a team had on a day of UTC, multiplied by the time for which it had it."""

    day: dt.date
    cpu_seconds: int
    ram_mb_seconds: int
    disk_mb_seconds: int


# As in the predicates of the partial indexes on live sandboxes, which these statements are to use.
_LIVE: Final = "status NOT IN ('stopped', 'error')"
_RUNS: Final = "status IN ('running', 'starting')"
_TOTALS: Final = f"""
    count(*) FILTER (WHERE {_RUNS}) AS running_count,
    coalesce(sum(vcpus) FILTER (WHERE {_RUNS}), 0) AS vcpus,
    coalesce(sum(CASE WHEN {_RUNS} THEN memory_mb WHEN status = 'paused' THEN (memory_mb + 1) / 2 ELSE 0 END), 0) AS memory_mb
"""

_SAMPLE: Final = text(
    f"""
    WITH former AS (
        SELECT at FROM team_samples WHERE team_id = :platform ORDER BY at DESC LIMIT 1
    ), covered AS (
        SELECT coalesce((SELECT (greatest(0, least(CAST(:longest_s AS double precision), extract(epoch FROM now() - at))) * 1000)::int FROM former), 0) AS ms
    ), teams AS (
        SELECT team_id, {_TOTALS}, coalesce(sum(disk_size_mb), 0) AS disk_mb
        FROM sandboxes WHERE {_LIVE} GROUP BY team_id
    )
    INSERT INTO team_samples (team_id, at, covers_ms, running_count, vcpus, memory_mb, disk_mb)
    SELECT team_id, now(), ms, running_count, vcpus, memory_mb, disk_mb FROM teams, covered
    UNION ALL
    SELECT :platform, now(), max(ms), coalesce(sum(running_count), 0), coalesce(sum(vcpus), 0),
        coalesce(sum(memory_mb), 0), coalesce(sum(disk_mb), 0)
    FROM covered LEFT JOIN teams ON true
    """  # noqa: S608 - constants
)

_OPEN_SPAN: Final = text(
    """
    SELECT coalesce(
        (SELECT at + make_interval(secs => :bucket_s) FROM team_usage
            WHERE team_id = :platform ORDER BY at DESC LIMIT 1),
        (SELECT date_bin(make_interval(secs => :bucket_s), at, 'epoch') FROM team_samples
            WHERE team_id = :platform ORDER BY at LIMIT 1)
    ) AS first, date_bin(make_interval(secs => :bucket_s), now() - make_interval(secs => :settled_s), 'epoch') AS past
    """
)

_ROLL_UP: Final = text(
    """
    WITH closed AS (
        SELECT team_id, date_bin(make_interval(secs => :bucket_s), at, 'epoch') AS at,
            max(running_count) AS running_count, max(vcpus) AS vcpus, max(memory_mb) AS memory_mb,
            sum(vcpus::bigint * covers_ms) / 1000 AS cpu_seconds,
            sum(memory_mb * covers_ms) / 1000 AS ram_mb_seconds,
            sum(disk_mb * covers_ms) / 1000 AS disk_mb_seconds
        FROM team_samples
        WHERE at >= :first AND at < :past GROUP BY 1, 2
    ), added AS (
        INSERT INTO team_usage (team_id, at, running_count, vcpus, memory_mb)
        SELECT team_id, at, running_count, vcpus, memory_mb FROM closed
        ON CONFLICT DO NOTHING RETURNING team_id, at
    )
    INSERT INTO team_usage_days AS days (team_id, day, cpu_seconds, ram_mb_seconds, disk_mb_seconds)
    SELECT team_id, (at AT TIME ZONE 'UTC')::date, sum(cpu_seconds), sum(ram_mb_seconds), sum(disk_mb_seconds)
    FROM closed JOIN added USING (team_id, at) GROUP BY 1, 2
    ON CONFLICT (team_id, day) DO UPDATE SET
        cpu_seconds = days.cpu_seconds + excluded.cpu_seconds,
        ram_mb_seconds = days.ram_mb_seconds + excluded.ram_mb_seconds,
        disk_mb_seconds = days.disk_mb_seconds + excluded.disk_mb_seconds
    """
)

_NOW: Final = text(f"SELECT {_TOTALS} FROM sandboxes WHERE team_id = :team AND {_LIVE}")  # noqa: S608 - constants

_NOW_OF_ALL: Final = text(f"SELECT {_TOTALS} FROM sandboxes WHERE {_LIVE}")  # noqa: S608 - constants

PEAKS: Final = text(
    """
    SELECT coalesce(max(running_count), 0) AS running_count, coalesce(max(vcpus), 0) AS vcpus,
        coalesce(max(memory_mb), 0) AS memory_mb
    FROM (
        SELECT running_count, vcpus, memory_mb FROM team_usage
        WHERE team_id = :team AND at > now() - make_interval(secs => :span_s)
        UNION ALL
        SELECT running_count, vcpus, memory_mb FROM team_samples
        WHERE team_id = :team AND at > now() - make_interval(secs => :recent_s)
    ) AS values
    """
)

# The rows of the platform say when samples were taken: at such a time a team without a row had nothing.
_SERIES: Final = """
    SELECT date_bin(make_interval(secs => :bucket_s), taken.at, 'epoch') AS at,
        coalesce(max(own.running_count), 0) AS running_count, coalesce(max(own.vcpus), 0) AS vcpus,
        coalesce(max(own.memory_mb), 0) AS memory_mb
    FROM {table} AS taken LEFT JOIN {table} AS own ON own.team_id = :team AND own.at = taken.at
        AND own.at > now() - make_interval(secs => :span_s)
    WHERE taken.team_id = :platform AND taken.at > now() - make_interval(secs => :span_s)
    GROUP BY 1 ORDER BY 1
    """
FINE_SERIES: Final = text(_SERIES.format(table="team_samples"))
COARSE_SERIES: Final = text(_SERIES.format(table="team_usage"))

_DAYS: Final = text(
    "SELECT day, cpu_seconds, ram_mb_seconds, disk_mb_seconds FROM team_usage_days"
    " WHERE team_id = :team AND day BETWEEN :first AND :last ORDER BY day"
)


async def take_samples(database: Database, *, longest_s: float) -> None:
    """Add a sample of each team that has live sandboxes, and one of all together.

    `longest_s`: a sample covers the time since the one before, but no more than that: nothing is known about a longer gap.
    """
    await database.execute(_SAMPLE, {"platform": PLATFORM, "longest_s": longest_s})


async def roll_up(database: Database, *, settled_s: float) -> None:
    """Add the buckets that ended `settled_s` ago and are not there yet, and their usage to the days. May be repeated."""
    arguments = {"platform": PLATFORM, "bucket_s": BUCKET_S, "settled_s": settled_s}
    span = (await database.execute(_OPEN_SPAN, arguments, repeatable=True)).one()
    if span.first is not None and span.first < span.past:
        await database.execute(_ROLL_UP, {"bucket_s": BUCKET_S, "first": span.first, "past": span.past})


async def delete_samples(database: Database, *, older_s: float, most: int) -> int:
    """Delete at most so many samples that are older than that; returns how many."""
    return await _delete(database, "team_samples", older_s, most)


async def delete_usage(database: Database, *, older_s: float, most: int) -> int:
    """Delete at most so many buckets that are older than that; returns how many."""
    return await _delete(database, "team_usage", older_s, most)


async def _delete(database: Database, table: str, older_s: float, most: int) -> int:
    statement = text(
        f"DELETE FROM {table} WHERE ctid = ANY (ARRAY("  # noqa: S608 - a constant
        f"SELECT ctid FROM {table} WHERE at < now() - make_interval(secs => :older_s) LIMIT :most))"
    )
    gone = await database.execute(statement, {"older_s": older_s, "most": most})
    return gone.rowcount


async def totals_now(database: Database, team_id: TeamId) -> TeamTotals:
    """Return what the team has now."""
    row = (await database.execute(_NOW, {"team": team_id.value}, repeatable=True)).one()
    return TeamTotals(row.running_count, row.vcpus, row.memory_mb)


async def totals_of_all(database: Database) -> TeamTotals:
    """Return what all teams together have now."""
    row = (await database.execute(_NOW_OF_ALL, repeatable=True)).one()
    return TeamTotals(row.running_count, row.vcpus, row.memory_mb)


def highest(one: TeamTotals, other: TeamTotals) -> TeamTotals:
    """Return the higher one of each value."""
    return TeamTotals(
        max(one.running_count, other.running_count),
        max(one.vcpus, other.vcpus),
        max(one.memory_mb, other.memory_mb),
    )


async def peaks(database: Database, team_id: TeamId, *, span_s: float) -> TeamTotals:
    """Return the most that the team had within the span, each value for itself."""
    arguments = {"team": team_id.value, "span_s": span_s, "recent_s": 3 * BUCKET_S}
    row = (await database.execute(PEAKS, arguments, repeatable=True)).one()
    return TeamTotals(row.running_count, row.vcpus, row.memory_mb)


async def series(
    database: Database, team_id: TeamId, *, span_s: float, bucket_s: float
) -> list[TotalsBucket]:
    """Return the most that the team had in each bucket of the span, in the order of time. Buckets without any sample are left out."""
    statement = FINE_SERIES if span_s <= FINE_SPAN_S else COARSE_SERIES
    arguments = {"team": team_id.value, "platform": PLATFORM, "span_s": span_s, "bucket_s": bucket_s}
    found = await database.execute(statement, arguments, repeatable=True)
    return [TotalsBucket(row.at, TeamTotals(row.running_count, row.vcpus, row.memory_mb)) for row in found]


async def usage_days(
    database: Database, team_id: TeamId, first: dt.date, last: dt.date
) -> Sequence[UsageDay]:
    """Return the days of this period on which the team had something, in the order of time."""
    found = await database.execute(
        _DAYS, {"team": team_id.value, "first": first, "last": last}, repeatable=True
    )
    return [UsageDay(row.day, row.cpu_seconds, row.ram_mb_seconds, row.disk_mb_seconds) for row in found]
