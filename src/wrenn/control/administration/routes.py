"""Endpoints for admins of the platform, on users and teams. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from wrenn.control.administration.service import Administration
from wrenn.control.administration.types import PAGE_LIMIT, SetActive, SetAdmin, SetByoc, TeamsPage, UsersPage
from wrenn.control.administration.views import team_record_json, user_record_json
from wrenn.control.auth import AdminOf
from wrenn.control.http import refusals, service

router = APIRouter(tags=["administration"])


Service = Annotated[Administration, service(Administration)]
Page = Annotated[int, Query(ge=1, le=PAGE_LIMIT, description="From 1, of 100 each")]


@router.get("/users", response_model=UsersPage, responses=refusals(403))
async def list_users(_admin: AdminOf, administration: Service, page: Page = 1) -> Response:
    """All users, newest first."""
    found, total = await administration.users(page)
    return JSONResponse({"users": [user_record_json(each) for each in found], "page": page, "total": total})


@router.put("/users/{user_id}/active", status_code=204, responses=refusals(403, 404, 409))
async def set_user_active(user_id: str, body: SetActive, admin: AdminOf, administration: Service) -> Response:
    """Deactivate a user, whose sessions and keys stop working at once, or let the user in again."""
    await administration.set_active(admin, user_id, active=body.active)
    return Response(status_code=204)


@router.put("/users/{user_id}/admin", status_code=204, responses=refusals(403, 404, 409))
async def set_user_admin(user_id: str, body: SetAdmin, admin: AdminOf, administration: Service) -> Response:
    """Make a user an admin of the platform, or not any more.

    An account whose e-mail address was never verified may have been made by somebody else: 409 `email_not_verified`, unless
    `accept_unverified` is set.
    """
    await administration.set_admin(
        admin, user_id, is_admin=body.admin, accept_unverified=body.accept_unverified
    )
    return Response(status_code=204)


@router.get("/teams", response_model=TeamsPage, responses=refusals(403))
async def list_all_teams(_admin: AdminOf, administration: Service, page: Page = 1) -> Response:
    """All teams, newest first, also deleted ones."""
    found, total = await administration.teams(page)
    return JSONResponse({"teams": [team_record_json(*each) for each in found], "page": page, "total": total})


@router.put("/teams/{team_id}/byoc", status_code=204, responses=refusals(403, 404))
async def set_team_byoc(team_id: str, body: SetByoc, admin: AdminOf, administration: Service) -> Response:
    """Let a team bring its own hosts. It cannot be taken back: `false` is refused."""
    await administration.enable_byoc(admin, team_id, enabled=body.enabled)
    return Response(status_code=204)


@router.delete("/teams/{team_id}", status_code=204, responses=refusals(403, 404))
async def delete_any_team(team_id: str, admin: AdminOf, administration: Service) -> Response:
    """End a team: its API keys stop working at once, its sandboxes and templates are removed."""
    await administration.delete_team(admin, team_id)
    return Response(status_code=204)
