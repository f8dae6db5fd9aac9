"""Endpoints of the e2b API for snapshots. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import CallerOf, CredentialOf
from wrenn.control.e2b.errors import refusals
from wrenn.control.e2b.sandbox_routes import NEXT_PAGE_HEADER
from wrenn.control.e2b.sandbox_types import SnapshotInfo, SnapshotRequest
from wrenn.control.e2b.snapshots import E2bSnapshots
from wrenn.control.e2b.views import snapshot_json
from wrenn.control.http import service

router = APIRouter(tags=["snapshots"])
SnapshotsOf = Annotated[E2bSnapshots, service(E2bSnapshots)]
_PAGE_LIMIT = 100


@router.post(
    "/sandboxes/{sandbox_id}/snapshots",
    status_code=201,
    response_model=SnapshotInfo,
    responses=refusals(404, 409, 501, 502, 504, 507),
)
async def create_snapshot(
    sandbox_id: str, credential: CredentialOf, snapshots: SnapshotsOf, body: SnapshotRequest
) -> Response:
    """Take a snapshot of a running or paused sandbox, which does not change. Sandboxes can be created from it."""
    template = await snapshots.create(credential, sandbox_id, name=body.name, memory=body.memory)
    return JSONResponse(snapshot_json(template), 201)


@router.get("/snapshots", response_model=list[SnapshotInfo], responses=refusals())
async def list_snapshots(
    caller: CallerOf,
    snapshots: SnapshotsOf,
    *,
    sandbox_id: Annotated[
        str | None, Query(alias="sandboxID", max_length=64, description="Only of this sandbox")
    ] = None,
    name: Annotated[str | None, Query(max_length=200, description="Only of this name")] = None,
    limit: Annotated[int, Query(ge=1, le=_PAGE_LIMIT)] = _PAGE_LIMIT,
    next_token: Annotated[
        str | None,
        Query(alias="nextToken", max_length=64, description=f"`{NEXT_PAGE_HEADER}` of the page before"),
    ] = None,
) -> Response:
    """A page of the team's snapshots, newest first."""
    found, cursor = await snapshots.list(
        caller, sandbox_id=sandbox_id, name=name, limit=limit, after=next_token or None
    )
    headers = {NEXT_PAGE_HEADER: cursor} if cursor else None
    return JSONResponse([snapshot_json(template) for template in found], headers=headers)
