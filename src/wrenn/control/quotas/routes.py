"""Endpoints of limits. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from wrenn.base.ids import TeamId
from wrenn.control.auth import AdminOf, CallerOf
from wrenn.control.http import refusals, service
from wrenn.control.quotas.service import Quotas
from wrenn.control.quotas.types import LimitsView, SetLimits, StandingView, limits_json, quota_status_json

own_router = APIRouter(tags=["limits"])
admin_router = APIRouter(tags=["admin"])


Service = Annotated[Quotas, service(Quotas)]


@own_router.get("", response_model=StandingView, responses=refusals())
async def get_limits(caller: CallerOf, quotas: Service) -> Response:
    """What the team may have at once, and what it has now."""
    return JSONResponse(quota_status_json(await quotas.status(caller)))


@admin_router.get("/{team_id}/limits", response_model=LimitsView, responses=refusals(403, 404))
async def get_team_limits(team_id: str, _admin: AdminOf, quotas: Service) -> Response:
    """A team's own limits; only for admins of the platform."""
    return JSONResponse(limits_json(await quotas.limits(TeamId.parse(team_id))))


@admin_router.put("/{team_id}/limits", response_model=LimitsView, responses=refusals(403, 404))
async def set_team_limits(team_id: str, body: SetLimits, admin: AdminOf, quotas: Service) -> Response:
    """Set a team's own limits; only for admins of the platform. What a team has already stays."""
    limits = await quotas.set_limits(admin, TeamId.parse(team_id), body.limits)
    return JSONResponse(limits_json(limits))
