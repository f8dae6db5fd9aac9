"""Messages of statistics and usage of teams."""

from __future__ import annotations

import datetime as dt

from pydantic import BaseModel, Field

from wrenn.control.metrics.ranges import StatsRange
from wrenn.control.metrics.team_metrics import TeamStats, Usage

_RUNNING = "Sandboxes that run or start"
_VCPUS = "Of these sandboxes"
_MEMORY = "Of these sandboxes, and half of the memory of paused ones"


class CurrentTotals(BaseModel):
    """What the team has now."""

    running_count: int = Field(description=_RUNNING)
    vcpus_reserved: int = Field(description=_VCPUS)
    memory_mb_reserved: int = Field(description=_MEMORY)


class PeakTotals(BaseModel):
    """The most within 30 days, each value for itself."""

    running_count: int = Field(description=_RUNNING)
    vcpus: int = Field(description=_VCPUS)
    memory_mb: int = Field(description=_MEMORY)


class StatsSeries(BaseModel):
    """The most within each bucket of time. The lists belong together; a bucket in which nothing was measured is in none of them."""

    labels: list[dt.datetime] = Field(description="When the bucket begins")
    running: list[int] = Field(description=_RUNNING)
    vcpus: list[int] = Field(description=_VCPUS)
    memory_mb: list[int] = Field(description=_MEMORY)


class StatsView(BaseModel):
    """What a team has now and had over time."""

    range: StatsRange
    current: CurrentTotals
    peaks: PeakTotals
    series: StatsSeries


class UsagePoint(BaseModel):
    """A day of UTC; what is added up is what sandboxes were created with, not what they made of it."""

    date: dt.date
    cpu_minutes: float = Field(description="vCPUs of running sandboxes × minutes")
    ram_mb_minutes: float = Field(
        description="MB of running sandboxes, and half of those of paused ones, × minutes"
    )
    disk_mb_minutes: float = Field(
        description="MB of the disks of all sandboxes that have not ended × minutes"
    )


class UsageOfTime(BaseModel):
    """The usage of each day of a period."""

    first: dt.date = Field(alias="from")
    to: dt.date
    points: list[UsagePoint]


def stats_json(span: StatsRange, stats: TeamStats) -> dict[str, object]:
    """Convert statistics to the JSON of `StatsView`."""
    now, peaks, series = stats.now, stats.peaks, stats.series
    return {
        "range": str(span),
        "current": {
            "running_count": now.running_count,
            "vcpus_reserved": now.vcpus,
            "memory_mb_reserved": now.memory_mb,
        },
        "peaks": {
            "running_count": peaks.running_count,
            "vcpus": peaks.vcpus,
            "memory_mb": peaks.memory_mb,
        },
        "series": {
            "labels": [bucket.at.isoformat() for bucket in series],
            "running": [bucket.totals.running_count for bucket in series],
            "vcpus": [bucket.totals.vcpus for bucket in series],
            "memory_mb": [bucket.totals.memory_mb for bucket in series],
        },
    }


def usage_json(usage: Usage) -> dict[str, object]:
    """Convert usage to the JSON of `UsageOfTime`."""
    return {
        "from": usage.first.isoformat(),
        "to": usage.last.isoformat(),
        "points": [
            {
                "date": day.day.isoformat(),
                "cpu_minutes": round(day.cpu_seconds / 60, 2),
                "ram_mb_minutes": round(day.ram_mb_seconds / 60, 2),
                "disk_mb_minutes": round(day.disk_mb_seconds / 60, 2),
            }
            for day in usage.days
        ],
    }
