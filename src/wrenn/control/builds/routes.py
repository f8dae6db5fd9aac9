"""Endpoints on builds. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from wrenn.base.errors import InvalidRequest
from wrenn.base.units import MIB
from wrenn.control.auth import AdminOf, Caller, CallerOf, Credential, CredentialOf, credential_of
from wrenn.control.builds.records import Build
from wrenn.control.builds.service import Builds
from wrenn.control.builds.types import BuildStepView, BuildView, CreateBuild, build_json
from wrenn.control.guests import UploadForm
from wrenn.control.http import (
    UPLOAD_SILENCE_S,
    DownloadResponse,
    EventStreamResponse,
    body_of,
    read_at_most,
    refusals,
    service,
)

router = APIRouter(tags=["builds"])
admin_router = APIRouter(tags=["administration"])

Service = Annotated[Builds, service(Builds)]

_CONFIG_LIMIT_B: Final = 1 * MIB
_BUILD_IN: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": CreateBuild.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["config", "archive"],
                    "properties": {
                        "config": {
                            "type": "string",
                            "description": "The JSON; must stand before `archive`",
                        },
                        "archive": {"type": "string", "format": "binary", "description": "A tar file"},
                    },
                }
            },
        },
    }
}
"""The body is read by hand, so FastAPI does not describe it."""


@router.post(
    "", status_code=201, response_model=BuildView, responses=refusals(409, 413), openapi_extra=_BUILD_IN
)
async def create_build(request: Request, caller: CallerOf, builds: Service) -> Response:
    """Build a template: JSON, or `multipart/form-data` with that JSON as `config` and the files as `archive`.

    The archive is a tar file, perhaps compressed, of at most 100 MiB. Everything about the recipe that can be checked is checked
    before this answers.
    """
    return JSONResponse(build_json(await _begun(request, caller, builds)), 201)


async def _begun(request: Request, caller: Caller, builds: Builds) -> Build:
    content_type = request.headers.get("content-type", "")
    if content_type.startswith("multipart/form-data"):
        form = UploadForm(
            content_type,
            body_of(request, silence_s=UPLOAD_SILENCE_S),
            file_part="archive",
            field_limit_b=_CONFIG_LIMIT_B,
        )
        fields = await form.fields()
        return await builds.create(caller, _config(fields.get("config", "")), form.file())
    return await builds.create(caller, _config(await read_at_most(body_of(request), _CONFIG_LIMIT_B)))


def _config(text: str | bytes) -> CreateBuild:
    try:
        return CreateBuild.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise InvalidRequest(f"{where}: {first['msg']}.") from error


@router.get("", response_model=list[BuildView], responses=refusals())
async def list_builds(caller: CallerOf, builds: Service) -> Response:
    """The team's newest builds, at most 100."""
    return JSONResponse([build_json(build) for build in await builds.list(caller)])


@router.get("/{build_id}", response_model=BuildView, responses=refusals(404))
async def get_build(build_id: str, caller: CallerOf, builds: Service) -> Response:
    """One build."""
    return JSONResponse(build_json(await builds.get(caller, build_id)))


@router.get("/{build_id}/logs", response_model=list[BuildStepView], responses=refusals(404))
async def get_build_logs(
    build_id: str,
    *,
    caller: CallerOf,
    credential: CredentialOf,
    builds: Service,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """The steps that have begun, with what they wrote.

    With `Accept: text/event-stream` a stream of events from the beginning, or behind `Last-Event-ID`, to the end of the build.
    """
    return await _logs(build_id, credential, caller, builds, accept=accept, last_event_id=last_event_id)


async def _logs(
    build_id: str,
    credential: Credential,
    caller: Caller,
    builds: Builds,
    *,
    accept: str,
    last_event_id: str | None,
) -> Response:
    if "text/event-stream" in accept:
        return await EventStreamResponse.opened(builds.follow(credential, caller, build_id, last_event_id))
    return DownloadResponse(builds.log(caller, build_id), "application/json")


@router.post("/{build_id}/cancel", status_code=204, responses=refusals(404, 409))
async def cancel_build(build_id: str, caller: CallerOf, builds: Service) -> Response:
    """End a build; its status is `cancelled` within some seconds."""
    await builds.cancel(caller, build_id)
    return Response(status_code=204)


@admin_router.post(
    "",
    status_code=201,
    response_model=BuildView,
    responses=refusals(403, 409, 413),
    openapi_extra=_BUILD_IN,
)
async def create_platform_build(request: Request, admin: AdminOf, builds: Service) -> Response:
    """Build a template of the platform, which all teams see; as `POST /v1/builds`. Its base is the platform's or a container image."""
    return JSONResponse(build_json(await _begun(request, builds.for_platform(admin), builds)), 201)


@admin_router.get("", response_model=list[BuildView], responses=refusals(403))
async def list_platform_builds(admin: AdminOf, builds: Service) -> Response:
    """The platform's newest builds, at most 100."""
    return JSONResponse([build_json(build) for build in await builds.list(builds.for_platform(admin))])


@admin_router.get("/{build_id}", response_model=BuildView, responses=refusals(403, 404))
async def get_platform_build(build_id: str, admin: AdminOf, builds: Service) -> Response:
    """One build of the platform."""
    return JSONResponse(build_json(await builds.get(builds.for_platform(admin), build_id)))


@admin_router.get("/{build_id}/logs", response_model=list[BuildStepView], responses=refusals(403, 404))
async def get_platform_build_logs(
    request: Request,
    build_id: str,
    *,
    admin: AdminOf,
    builds: Service,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """The steps that have begun, or their stream, as of a team's build."""
    caller = builds.for_platform(admin)
    return await _logs(
        build_id, credential_of(request), caller, builds, accept=accept, last_event_id=last_event_id
    )


@admin_router.post("/{build_id}/cancel", status_code=204, responses=refusals(403, 404, 409))
async def cancel_platform_build(build_id: str, admin: AdminOf, builds: Service) -> Response:
    """End a build of the platform; its status is `cancelled` within some seconds."""
    await builds.cancel(builds.for_platform(admin), build_id)
    return Response(status_code=204)
