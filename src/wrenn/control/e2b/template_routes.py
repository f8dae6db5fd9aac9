"""Endpoints of the e2b API on templates and their builds. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from wrenn.base.ids import KeyId, UserId
from wrenn.control.auth import CallerOf, Scope
from wrenn.control.e2b.errors import refusals
from wrenn.control.e2b.template_types import (
    AliasView,
    AssignedTagsView,
    BuildStart,
    BuildStatusView,
    FileUploadView,
    NewTemplateBuild,
    TagsToAssign,
    TagsToRemove,
    TagView,
    TemplateBuildView,
)
from wrenn.control.e2b.template_views import announced_json, progress_json
from wrenn.control.e2b.templates import E2bTemplates, version_id
from wrenn.control.http import UPLOAD_SILENCE_S, body_of, service, wire_time
from wrenn.protocol.api import E2B_PREFIX, E2B_UPLOADS_PREFIX

router = APIRouter(tags=["templates"])

UPLOADS: Final = E2B_UPLOADS_PREFIX.removeprefix(E2B_PREFIX)
"""Below it files are uploaded, with limits of their own."""

TemplatesOf = Annotated[E2bTemplates, service(E2bTemplates)]
_TemplateId = Annotated[str, Path(alias="templateID")]
_BuildId = Annotated[UUID, Path(alias="buildID")]


@router.post("/v3/templates", status_code=202, response_model=TemplateBuildView, responses=refusals(409))
async def announce_build(body: NewTemplateBuild, caller: CallerOf, templates: TemplatesOf) -> Response:
    """Begin the build of a template. Its files and steps follow."""
    return JSONResponse(announced_json(await templates.announce(caller, body)), 202)


@router.get(
    "/templates/{templateID}/files/{hash}",
    status_code=201,
    response_model=FileUploadView,
    responses=refusals(404),
)
async def get_upload(
    request: Request,
    template_id: _TemplateId,  # noqa: ARG001 - files are the team's, whatever template they are for
    files_hash: Annotated[str, Path(alias="hash")],
    caller: CallerOf,
    templates: TemplatesOf,
) -> Response:
    """Whether the files of a COPY step are here, and a URL that takes them in any case; none for a key that may only read."""
    is_present = await templates.files.is_present(caller.team_id, files_hash)
    if caller.scope is Scope.READ:
        return JSONResponse({"present": is_present}, 201)
    holder = KeyId.find(caller.actor.actor_id) or UserId.parse(caller.actor.actor_id)
    link = templates.files.links.make(caller.team_id, files_hash, holder)
    base = f"{request.url.scheme}://{request.headers.get('host', '')}"
    return JSONResponse({"present": is_present, "url": f"{base}{E2B_PREFIX}{UPLOADS}{link}"}, 201)


@router.put(UPLOADS + "{link}", status_code=204, responses=refusals(404, 413))
async def upload_files(request: Request, link: str, templates: TemplatesOf) -> Response:
    """Upload the files of a COPY step: a tar file, perhaps compressed, of at most 100 MiB.

    The link is the permission, for one upload. It ends with the access of whoever asked for it.
    """
    await templates.files.upload(link, body_of(request, silence_s=UPLOAD_SILENCE_S))
    return Response(status_code=204)


@router.post(
    "/v2/templates/{templateID}/builds/{buildID}", status_code=202, responses=refusals(404, 409, 413, 501)
)
async def start_build(
    template_id: _TemplateId,  # noqa: ARG001 - the build names its template
    build_id: _BuildId,
    body: BuildStart,
    caller: CallerOf,
    templates: TemplatesOf,
) -> Response:
    """Queue a build with its steps."""
    await templates.start(caller, build_id, body)
    return Response(status_code=202)


@router.get(
    "/templates/{templateID}/builds/{buildID}/status", response_model=BuildStatusView, responses=refusals(404)
)
async def get_build_status(
    template_id: _TemplateId,  # noqa: ARG001 - the build names its template
    build_id: _BuildId,
    caller: CallerOf,
    templates: TemplatesOf,
    logs_offset: Annotated[int, Query(alias="logsOffset", ge=0, le=2**31 - 1)] = 0,
) -> Response:
    """A build, and at most 100 entries of its log after the first `logsOffset` ones."""
    return JSONResponse(progress_json(await templates.progress(caller, build_id, offset=logs_offset)))


@router.get("/templates/aliases/{alias}", response_model=AliasView, responses=refusals(404))
async def find_template(alias: str, caller: CallerOf, templates: TemplatesOf) -> Response:
    """The template that has this name."""
    return JSONResponse({"templateID": await templates.find_by_name(caller, alias), "public": False})


@router.post("/templates/tags", status_code=201, response_model=AssignedTagsView, responses=refusals(404))
async def assign_tags(body: TagsToAssign, caller: CallerOf, templates: TemplatesOf) -> Response:
    """Let tags refer to a version. A version that loses its last tag is removed."""
    version = await templates.assign_tags(caller, body.target, body.tags)
    return JSONResponse({"tags": body.tags, "buildID": str(version)}, 201)


@router.delete("/templates/tags", status_code=204, responses=refusals(404))
async def remove_tags(body: TagsToRemove, caller: CallerOf, templates: TemplatesOf) -> Response:
    """Remove tags from a template. A version that loses its last tag is removed."""
    await templates.remove_tags(caller, body.name, body.tags)
    return Response(status_code=204)


@router.get("/templates/{templateID}/tags", response_model=list[TagView], responses=refusals(404))
async def list_tags(template_id: _TemplateId, caller: CallerOf, templates: TemplatesOf) -> Response:
    """The tags of a template."""
    found = await templates.tags(caller, template_id)
    return JSONResponse(
        [
            {"tag": tag, "buildID": str(version_id(version)), "createdAt": wire_time(version.created_at)}
            for tag, version in found
        ]
    )


@router.delete("/templates/{templateID:path}", status_code=204, responses=refusals(404))
async def delete_template(template_id: _TemplateId, caller: CallerOf, templates: TemplatesOf) -> Response:
    """Delete a template, or a snapshot. Sandboxes made from it go on."""
    await templates.delete(caller, template_id)
    return Response(status_code=204)
