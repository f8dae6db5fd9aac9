"""Endpoints on hosts, for users. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import AdminOf, MemberOf
from wrenn.control.fleet.service import Fleet
from wrenn.control.fleet.types import (
    AddTag,
    CreateHost,
    DeletePreview,
    ExplainPlacement,
    HostWithToken,
    PlacementView,
    placement_json,
)
from wrenn.control.hosts import HostView, host_json
from wrenn.control.http import refusals, service

router = APIRouter(tags=["hosts"])

FleetOf = Annotated[Fleet, service(Fleet)]
_NO_STORE = {"Cache-Control": "no-store"}


@router.post("", status_code=201, response_model=HostWithToken, responses=refusals(403, 404, 409))
async def create_host(body: CreateHost, member: MemberOf, fleet: FleetOf) -> Response:
    """Create a host, and the token with which its agent registers.

    A regular one: for admins of the platform. One of a team that may bring its own: for its owner and admins.
    """
    host, token = await fleet.create(member, body)
    answer = {"host": host_json(host), "registration_token": token.reveal()}
    return JSONResponse(answer, 201, _NO_STORE)


@router.get("", response_model=list[HostView], responses=refusals(403))
async def list_hosts(member: MemberOf, fleet: FleetOf) -> Response:
    """The team's own hosts, oldest first; for admins of the platform all hosts."""
    is_admin = member.account.is_admin
    return JSONResponse([host_json(host, with_team_name=is_admin) for host in await fleet.list(member)])


@router.get("/explain", response_model=PlacementView, responses=refusals(403, 404))
async def explain_placement(
    query: Annotated[ExplainPlacement, Query()], _admin: AdminOf, fleet: FleetOf
) -> Response:
    """Where a sandbox would be placed now, and which filter keeps it from each other host; nothing is created.

    For admins of the platform.
    """
    return JSONResponse(placement_json(*await fleet.explain_placement(query)))


@router.get("/{host_id}", response_model=HostView, responses=refusals(403, 404))
async def get_host(host_id: str, member: MemberOf, fleet: FleetOf) -> Response:
    """One host."""
    return JSONResponse(host_json(await fleet.get(member, host_id)))


@router.get("/{host_id}/delete-preview", response_model=DeletePreview, responses=refusals(403, 404))
async def preview_host_deletion(host_id: str, member: MemberOf, fleet: FleetOf) -> Response:
    """What a forced deletion would end and delete."""
    host, contents = await fleet.preview_deletion(member, host_id)
    lost = {**contents.details, "template_count": len(contents.template_names)}
    return JSONResponse({"host": host_json(host), **lost})


@router.delete("/{host_id}", status_code=204, responses=refusals(403, 404, 409))
async def delete_host(
    host_id: str,
    member: MemberOf,
    fleet: FleetOf,
    *,
    force: Annotated[
        bool,
        Query(
            description="Also with sandboxes that have not ended, which end, and templates, which are lost"
        ),
    ] = False,
) -> Response:
    """Delete a host. With templates or with sandboxes that have not ended: 409 `has_active_sandboxes`.

    Its `error` has `sandbox_ids` and `template_names`.
    """
    await fleet.delete(member, host_id, force=force)
    return Response(status_code=204)


@router.post("/{host_id}/token", status_code=201, response_model=HostWithToken, responses=refusals(403, 404))
async def issue_host_token(
    host_id: str,
    member: MemberOf,
    fleet: FleetOf,
    *,
    force: Annotated[
        bool, Query(description="Also for a host that is online, whose credentials stop working at once")
    ] = False,
) -> Response:
    """Another registration token, for a host whose agent sends no heartbeats; the one before stops working."""
    host, token = await fleet.issue_token(member, host_id, force=force)
    answer = {"host": host_json(host), "registration_token": token.reveal()}
    return JSONResponse(answer, 201, _NO_STORE)


@router.get("/{host_id}/tags", response_model=list[str], responses=refusals(403, 404))
async def list_host_tags(host_id: str, member: MemberOf, fleet: FleetOf) -> Response:
    """The tags of a host."""
    return JSONResponse(list(await fleet.tags(member, host_id)))


@router.post("/{host_id}/tags", status_code=204, responses=refusals(403, 404, 409))
async def add_host_tag(host_id: str, body: AddTag, member: MemberOf, fleet: FleetOf) -> Response:
    """Give a host a tag. One that it has is fine."""
    await fleet.add_tag(member, host_id, body.tag)
    return Response(status_code=204)


@router.delete("/{host_id}/tags/{tag}", status_code=204, responses=refusals(403, 404))
async def remove_host_tag(host_id: str, tag: str, member: MemberOf, fleet: FleetOf) -> Response:
    """Take a tag from a host. One that it does not have is fine."""
    await fleet.remove_tag(member, host_id, tag)
    return Response(status_code=204)
