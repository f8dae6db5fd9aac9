"""Endpoints on templates. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import AdminOf, CallerOf
from wrenn.control.http import refusals, service
from wrenn.control.templates.service import Templates
from wrenn.control.templates.types import AdminTemplateView, TemplateView, admin_template_json, template_json

router = APIRouter(tags=["templates"])
admin_router = APIRouter(tags=["administration"])

Service = Annotated[Templates, service(Templates)]
Kind = Annotated[
    Literal["base", "snapshot"] | None, Query(alias="type", description="Only `base` or `snapshot`")
]


@router.get("", response_model=list[TemplateView], responses=refusals())
async def list_templates(caller: CallerOf, templates: Service, kind: Kind = None) -> Response:
    """The versions of the team's templates, newest first, and those of the platform."""
    return JSONResponse([template_json(each) for each in await templates.list(caller, kind)])


@router.get("/{template}", response_model=TemplateView, responses=refusals(404))
async def get_template(template: str, caller: CallerOf, templates: Service) -> Response:
    """One version: `name` (its latest), `name:tag`, or its id. The team's own go before the platform's."""
    return JSONResponse(template_json(await templates.get(caller, template)))


@router.delete("/{template}", status_code=204, responses=refusals(403, 404))
async def delete_template(template: str, caller: CallerOf, templates: Service) -> Response:
    """Delete a tag (`name:tag`), a version (its id), or all versions (`name`). Sandboxes made from it go on."""
    await templates.delete(caller, template)
    return Response(status_code=204)


@router.put("/{template}/tags/{tag}", response_model=TemplateView, responses=refusals(403, 404))
async def set_tag(template: str, tag: str, caller: CallerOf, templates: Service) -> Response:
    """Let a tag refer to this version. The one that had it goes when no other tag refers to it."""
    return JSONResponse(template_json(await templates.set_tag(caller, template, tag)))


@admin_router.get("", response_model=list[AdminTemplateView], responses=refusals(403))
async def list_all_templates(admin: AdminOf, templates: Service) -> Response:
    """The newest templates of all teams and of the platform, at most 1,000."""
    return JSONResponse([admin_template_json(each) for each in await templates.list_all(admin)])


@admin_router.delete("/{template}", status_code=204, responses=refusals(403, 404))
async def delete_platform_template(template: str, admin: AdminOf, templates: Service) -> Response:
    """Delete a template of the platform, like a team's; `minimal` cannot be deleted."""
    await templates.delete_of_platform(admin, template)
    return Response(status_code=204)
