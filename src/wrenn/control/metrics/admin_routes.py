"""Endpoints of the load of hosts and of the platform, for its admins. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import AdminOf
from wrenn.control.http import refusals, service
from wrenn.control.metrics.admin_types import HostLoads, PlatformStatsView, hosts_json, platform_json
from wrenn.control.metrics.platform_usage import PlatformUsage
from wrenn.control.metrics.ranges import StatsRange

router = APIRouter(tags=["admin"])

UsageOf = Annotated[PlatformUsage, service(PlatformUsage)]


@router.get("/hosts/metrics", response_model=HostLoads, responses=refusals(403))
async def get_host_metrics(_admin: AdminOf, usage: UsageOf) -> Response:
    """All hosts: what they have, what is promised to their sandboxes, and what those use at this moment."""
    return JSONResponse(hosts_json(await usage.hosts()))


@router.get("/metrics", response_model=PlatformStatsView, responses=refusals(403))
async def get_platform_metrics(
    _admin: AdminOf,
    usage: UsageOf,
    span: Annotated[
        StatsRange, Query(alias="range", description="How far back the series go")
    ] = StatsRange.H1,
) -> Response:
    """What all teams together have, had at most within 30 days, and had over time; how many creates succeeded, in which time, and why others failed."""
    return JSONResponse(platform_json(span, await usage.stats(span)))
