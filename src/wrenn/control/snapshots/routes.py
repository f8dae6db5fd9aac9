"""Endpoints on snapshots and templates. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import CallerOf, CredentialOf
from wrenn.control.http import refusals, service
from wrenn.control.snapshots.records import MayReplace
from wrenn.control.snapshots.service import Snapshots
from wrenn.control.snapshots.types import CreateSnapshot
from wrenn.control.templates import Templates
from wrenn.control.templates.types import TemplateView, template_json

router = APIRouter(tags=["snapshots"])


Service = Annotated[Snapshots, service(Snapshots)]
TemplatesService = Annotated[Templates, service(Templates)]


@router.post("", status_code=201, response_model=TemplateView, responses=refusals(404, 409, 502, 504, 507))
async def create_snapshot(
    body: CreateSnapshot,
    credential: CredentialOf,
    snapshots: Service,
    *,
    overwrite: Annotated[bool, Query(description="Replace the team's template of this name")] = False,
) -> Response:
    """Keep what a running or paused sandbox is now, with memory and processes, as a template.

    A running sandbox goes on after a short stop. Goes on to its end when the client goes away.
    """
    may_replace = MayReplace.ANYTHING if overwrite else MayReplace.NOTHING
    template = await snapshots.create(credential, body, may_replace=may_replace)
    return JSONResponse(template_json(template), 201)


@router.get("", response_model=list[TemplateView], responses=refusals())
async def list_snapshots(
    caller: CallerOf,
    templates: TemplatesService,
    kind: Annotated[
        Literal["base", "snapshot"] | None, Query(alias="type", description="Only `base` or `snapshot`")
    ] = None,
) -> Response:
    """The team's templates, newest first, and those of the platform."""
    return JSONResponse([template_json(template) for template in await templates.list(caller, kind)])


@router.delete("/{name}", status_code=204, responses=refusals(403, 404))
async def delete_snapshot(name: str, caller: CallerOf, templates: TemplatesService) -> Response:
    """Remove one of the team's templates, with all its versions. Sandboxes that were made from it go on."""
    await templates.delete(caller, name)
    return Response(status_code=204)
