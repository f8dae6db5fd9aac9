"""Endpoints on hosts, for users. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import AdminOf, MemberOf
from wrenn.control.fleet.drains import Drains
from wrenn.control.fleet.service import Fleet
from wrenn.control.fleet.types import (
    AddTag,
    CreateHost,
    DeletePreview,
    DrainHost,
    ExplainPlacement,
    HostWithToken,
    PlacementView,
    placement_json,
)
from wrenn.control.hosts import DrainPolicy, HostRecord, HostView, host_json
from wrenn.control.http import refusals, service
from wrenn.control.sandboxes import DrainProgress

router = APIRouter(tags=["hosts"])

FleetOf = Annotated[Fleet, service(Fleet)]
DrainsOf = Annotated[Drains, service(Drains)]
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
async def get_host(host_id: str, member: MemberOf, drains: DrainsOf) -> Response:
    """One host. While it is drained: how far that is, and which sandboxes cannot be paused."""
    return _answer(*await drains.get(member, host_id))


@router.post("/{host_id}/drain", response_model=HostView, responses=refusals(403, 404))
async def drain_host(
    host_id: str, member: MemberOf, drains: DrainsOf, body: DrainHost | None = None
) -> Response:
    """Start nothing on a host any more, and wait for its sandboxes or pause them. It goes on until `uncordon`.

    A sandbox whose files lie there is not resumed or forked meanwhile: 503 `host_draining`. May be repeated, and with
    the other policy.
    """
    await drains.drain(member, host_id, DrainPolicy((body or DrainHost()).policy))
    return _answer(*await drains.get(member, host_id))


@router.post("/{host_id}/uncordon", response_model=HostView, responses=refusals(403, 404))
async def uncordon_host(host_id: str, member: MemberOf, drains: DrainsOf) -> Response:
    """Use a host again that was or is drained. What was paused stays paused. May be repeated."""
    await drains.uncordon(member, host_id)
    return _answer(*await drains.get(member, host_id))


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


def _answer(host: HostRecord, progress: DrainProgress | None) -> Response:
    answer = host_json(host)
    if isinstance(drain := answer.get("drain"), dict) and progress is not None:
        drain["sandboxes"] = {
            "starting": progress.starting,
            "running": progress.running,
            "pausing": progress.pausing,
            "moving": progress.moving,
            "stopping": progress.stopping,
            "missing": progress.missing,
            "paused": progress.paused,
        }
        drain["failures"] = [
            {"sandbox_id": str(failed.sandbox_id), "code": failed.code, "reason": failed.reason}
            for failed in progress.failures
        ]
    return JSONResponse(answer)
