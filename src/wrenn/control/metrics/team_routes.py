"""Endpoints of statistics and usage of teams. Each parses, makes one call, answers."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import CallerOf
from wrenn.control.http import refusals, service
from wrenn.control.metrics.ranges import StatsRange
from wrenn.control.metrics.team_metrics import TeamMetrics
from wrenn.control.metrics.team_types import StatsView, UsageOfTime, stats_json, usage_json

stats_router = APIRouter(tags=["metrics"])
usage_router = APIRouter(tags=["metrics"])

TeamMetricsOf = Annotated[TeamMetrics, service(TeamMetrics)]


@stats_router.get("/stats", response_model=StatsView, responses=refusals())
async def get_stats(
    caller: CallerOf,
    metrics: TeamMetricsOf,
    span: Annotated[
        StatsRange, Query(alias="range", description="How far back the series goes")
    ] = StatsRange.H1,
) -> Response:
    """What the team has now, the most within 30 days, and a series of the most within each bucket of the range.

    Buckets have 3 s, 30 s, 3 min, 12 min or 6 h; every ten seconds is measured.
    """
    return JSONResponse(stats_json(span, await metrics.stats(caller, span)))


# Public clients look for it beside their sandboxes.
@stats_router.get("/usage", include_in_schema=False)
@usage_router.get("", response_model=UsageOfTime, responses=refusals())
async def get_usage(
    caller: CallerOf,
    metrics: TeamMetricsOf,
    first: Annotated[
        dt.date | None, Query(alias="from", description="First day, of UTC; 30 days if absent")
    ] = None,
    last: Annotated[dt.date | None, Query(alias="to", description="Last day; today if absent")] = None,
) -> Response:
    """What the team's sandboxes had on each day, multiplied by the time for which they had it. Today's values are some minutes old."""
    return JSONResponse(usage_json(await metrics.usage(caller, first, last)))
