"""What a team has now and had over time."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wrenn.base.clock import Clock
from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import TeamId
from wrenn.control.auth import Caller
from wrenn.control.db import Database
from wrenn.control.metrics import team_store
from wrenn.control.metrics.ranges import StatsRange
from wrenn.control.metrics.team_store import TeamTotals, TotalsBucket, UsageDay

PEAKS_S: Final = 30 * 86_400.0
_USAGE_DAYS: Final = 30
USAGE_DAYS_LIMIT: Final = 92


@dataclass(frozen=True, slots=True)
class TeamStats:
    """What a team has at this moment, the most that it had within 30 days, and the most within each bucket of a range."""

    now: TeamTotals
    peaks: TeamTotals
    series: Sequence[TotalsBucket]


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of each day of a period."""

    first: dt.date
    last: dt.date
    days: Sequence[UsageDay]


class TeamMetrics:
    """Reads what teams have."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def stats(self, caller: Caller, span: StatsRange) -> TeamStats:
        """Return the statistics of the caller's team."""
        return await self.stats_of(caller.team_id, span)

    async def stats_of(self, team_id: TeamId, span: StatsRange) -> TeamStats:
        """Return the statistics of a team."""
        database = self._database
        now, peaks, series = await asyncio.gather(
            team_store.totals_now(database, team_id),
            team_store.peaks(database, team_id, span_s=PEAKS_S),
            team_store.series(database, team_id, span_s=span.seconds, bucket_s=span.bucket_s),
        )
        return TeamStats(now, team_store.highest(peaks, now), series)

    async def usage(self, caller: Caller, first: dt.date | None, last: dt.date | None) -> Usage:
        """Return the usage of each day from `first` to `last`, both included; by default of the last 30 days.

        Raises:
            InvalidRequest: the period ends before it begins, or is too long.
        """
        last = last or self._clock.now().astimezone(dt.UTC).date()
        try:
            first = first or last - dt.timedelta(days=_USAGE_DAYS - 1)
            count = (last - first).days + 1
            every = [first + dt.timedelta(days=number) for number in range(min(count, USAGE_DAYS_LIMIT))]
        except OverflowError as error:
            raise InvalidRequest("from, to: no such period.") from error
        if count < 1:
            raise InvalidRequest("from: must not be after `to`.")
        if count > USAGE_DAYS_LIMIT:
            raise InvalidRequest(f"from, to: at most {USAGE_DAYS_LIMIT} days.")
        found = await team_store.usage_days(self._database, caller.team_id, first, last)
        by_day = {usage.day: usage for usage in found}
        return Usage(first, last, [by_day.get(day) or UsageDay(day, 0, 0, 0) for day in every])
