"""Endpoints on teams. The team of the path must be the token's. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import AccountOf, MemberOf
from wrenn.control.http import refusals, service
from wrenn.control.teams.service import Teams
from wrenn.control.teams.types import (
    CreateTeam,
    FoundUser,
    MemberView,
    PatchTeam,
    SetRole,
    TeamDetails,
    TeamView,
    Transfer,
)
from wrenn.control.teams.views import member_json, team_json

router = APIRouter(tags=["teams"])
search_router = APIRouter(tags=["teams"])


Service = Annotated[Teams, service(Teams)]


@router.get("", response_model=list[TeamView], responses=refusals(403))
async def list_teams(account: AccountOf, teams: Service) -> Response:
    """The user's teams."""
    return JSONResponse([team_json(team, role) for team, role in await teams.list(account)])


@router.post("", status_code=201, response_model=TeamView, responses=refusals(403, 409))
async def create_team(body: CreateTeam, account: AccountOf, teams: Service) -> Response:
    """Make a team, as its owner. The token stays that of its team: use switch-team."""
    team, role = await teams.create(account, body.name)
    return JSONResponse(team_json(team, role), 201)


@router.get("/{team_id}", response_model=TeamDetails, responses=refusals(403, 404))
async def get_team(team_id: str, member: MemberOf, teams: Service) -> Response:
    """The team and its members."""
    team, members = await teams.get(member, team_id)
    return JSONResponse(
        {"team": team_json(team, member.role), "members": [member_json(each) for each in members]}
    )


@router.patch("/{team_id}", status_code=204, responses=refusals(403, 404))
async def patch_team(team_id: str, body: PatchTeam, member: MemberOf, teams: Service) -> Response:
    """Another name, or another choice of what becomes of removed members' keys. For admins and the owner."""
    await teams.patch(member, team_id, body)
    return Response(status_code=204)


@router.delete("/{team_id}", status_code=204, responses=refusals(403, 404))
async def delete_team(team_id: str, member: MemberOf, teams: Service) -> Response:
    """End the team: its API keys stop working at once, its sandboxes and templates are removed. For the owner."""
    await teams.delete(member, team_id)
    return Response(status_code=204)


@router.get("/{team_id}/members", response_model=list[MemberView], responses=refusals(403))
async def list_members(team_id: str, member: MemberOf, teams: Service) -> Response:
    """Who belongs to the team, in the order of joining."""
    return JSONResponse([member_json(each) for each in await teams.members(member, team_id)])


@router.patch("/{team_id}/members/{user_id}", status_code=204, responses=refusals(403, 404))
async def set_member_role(
    team_id: str, user_id: str, body: SetRole, member: MemberOf, teams: Service
) -> Response:
    """Make a member an admin, or an admin a member. For admins and the owner; not of the owner."""
    await teams.set_role(member, team_id, user_id, body.role)
    return Response(status_code=204)


@router.delete("/{team_id}/members/{user_id}", status_code=204, responses=refusals(403, 404))
async def remove_member(
    team_id: str,
    user_id: str,
    member: MemberOf,
    teams: Service,
    *,
    revoke_keys: Annotated[
        bool | None,
        Query(
            description="Whether the team's API keys that this member made are revoked; absent: as the team chose"
        ),
    ] = None,
) -> Response:
    """Have a member out of the team, at once. For admins and the owner; not of the owner."""
    await teams.remove(member, team_id, user_id, revoke_keys=revoke_keys)
    return Response(status_code=204)


@router.post("/{team_id}/leave", status_code=204, responses=refusals(403, 404))
async def leave_team(team_id: str, member: MemberOf, teams: Service) -> Response:
    """Be no member any more. Not for the owner."""
    await teams.leave(member, team_id)
    return Response(status_code=204)


@router.post("/{team_id}/transfer", status_code=204, responses=refusals(403, 404, 409))
async def transfer_team(team_id: str, body: Transfer, member: MemberOf, teams: Service) -> Response:
    """Make another member the owner; the caller is an admin then. For the owner."""
    await teams.transfer(member, team_id, body.user_id)
    return Response(status_code=204)


@search_router.get("/search", response_model=list[FoundUser], responses=refusals(403, 429))
async def search_users(
    account: AccountOf,
    teams: Service,
    email: Annotated[
        str, Query(max_length=254, description="Begin of an e-mail address, 3 characters or more")
    ],
) -> Response:
    """Up to 10 users: of the caller's own teams by the begin of the address, any other by the whole of it."""
    found = await teams.search(account, email)
    return JSONResponse([{"user_id": str(user_id), "email": address} for user_id, address in found])
