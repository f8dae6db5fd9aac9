"""Endpoints of the e2b API that list templates, and that change what is not changed here: they have no public ones. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import CallerOf
from wrenn.control.e2b.errors import NotSupported, refusals
from wrenn.control.e2b.sandbox_routes import NEXT_PAGE_HEADER
from wrenn.control.e2b.template_routes import TemplatesOf
from wrenn.control.e2b.template_types import (
    TemplateChange,
    TemplateNamesView,
    TemplateView,
    TemplateWithBuildsView,
)
from wrenn.control.e2b.template_views import template_json, template_with_builds_json

router = APIRouter(tags=["templates"])
_PAGE_LIMIT: Final = 100
_TemplateId = Annotated[str, Path(alias="templateID")]
_Limit = Annotated[int, Query(ge=1, le=_PAGE_LIMIT)]
_NextToken = Annotated[str | None, Query(alias="nextToken", max_length=64)]


@router.get("/templates", response_model=list[TemplateView], responses=refusals())
async def list_templates(caller: CallerOf, templates: TemplatesOf) -> Response:
    """The templates that the team has built, those that changed last first."""
    return JSONResponse([template_json(each) for each in await templates.list_built(caller)])


@router.get("/v2/templates", response_model=list[TemplateView], responses=refusals())
async def list_templates_v2(
    caller: CallerOf, templates: TemplatesOf, limit: _Limit = _PAGE_LIMIT, next_token: _NextToken = None
) -> Response:
    """The same by pages, ordered by name."""
    found = sorted(await templates.list_built(caller), key=lambda versions: versions[0].name)
    later = [versions for versions in found if versions[0].name > (next_token or "")]
    page = later[:limit]
    headers = {NEXT_PAGE_HEADER: page[-1][0].name} if len(later) > len(page) else None
    return JSONResponse([template_json(each) for each in page], headers=headers)


@router.get("/templates/{templateID}", response_model=TemplateWithBuildsView, responses=refusals(404))
async def get_template(template_id: _TemplateId, caller: CallerOf, templates: TemplatesOf) -> Response:
    """A template with its versions, newest first."""
    return JSONResponse(template_with_builds_json(await templates.built(caller, template_id)))


@router.patch("/templates/{templateID}", response_model=dict[str, Any], responses=refusals(404, 501))
async def change_template(
    template_id: _TemplateId, body: TemplateChange, caller: CallerOf, templates: TemplatesOf
) -> Response:
    """Templates are never public: only that one stays private is accepted."""
    await templates.built(caller, template_id)
    _require_private(body)
    return JSONResponse({})


@router.patch("/v2/templates/{templateID}", response_model=TemplateNamesView, responses=refusals(404, 501))
async def change_template_v2(
    template_id: _TemplateId, body: TemplateChange, caller: CallerOf, templates: TemplatesOf
) -> Response:
    """The same; answers with its names."""
    versions = await templates.built(caller, template_id)
    _require_private(body)
    return JSONResponse({"names": [versions[0].name]})


def _require_private(body: TemplateChange) -> None:
    if body.public:
        raise NotSupported("public: a template is its team's alone on this platform.")
