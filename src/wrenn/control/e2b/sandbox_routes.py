"""Endpoints of the e2b API that create, list, read, change and end sandboxes. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import AwareDatetime

from wrenn.control.auth import CallerOf, CredentialOf
from wrenn.control.e2b.domain import ClientDomainOf
from wrenn.control.e2b.errors import refusals
from wrenn.control.e2b.sandbox_types import (
    ListedSandbox,
    NewSandbox,
    NewSandboxV2,
    SandboxDetail,
    SandboxView,
)
from wrenn.control.e2b.sandboxes import E2bSandboxes, ListQuery
from wrenn.control.e2b.views import detail_json, listed_json, sandbox_json
from wrenn.control.http import service, while_connected
from wrenn.protocol.api import IDEMPOTENCY_KEY_HEADER

router = APIRouter(tags=["sandboxes"])

NEXT_PAGE_HEADER: Final = "X-Next-Token"
"""Response header of a list: `nextToken` of the next page; absent on the last page."""
_PAGE_LIMIT: Final = 100

SandboxesOf = Annotated[E2bSandboxes, service(E2bSandboxes)]
_IdempotencyKey = Annotated[
    str | None,
    Header(alias=IDEMPOTENCY_KEY_HEADER, description="The same key and body: the same sandbox"),
]
_CREATE_REFUSALS: Final = refusals(404, 409, 501, 502, 504, 507)


@router.post("/v2/sandboxes", status_code=201, response_model=SandboxView, responses=_CREATE_REFUSALS)
async def create_sandbox_v2(
    request: Request,
    body: NewSandboxV2,
    *,
    caller: CallerOf,
    sandboxes: SandboxesOf,
    domain: ClientDomainOf,
    idempotency_key: _IdempotencyKey = None,
) -> Response:
    """Create a sandbox; answers when it runs."""
    sandbox = await while_connected(request, sandboxes.create(caller, body, idempotency_key))
    return JSONResponse(sandbox_json(sandbox, domain, *sandboxes.tokens(sandbox)), 201)


@router.post("/sandboxes", status_code=201, response_model=SandboxView, responses=_CREATE_REFUSALS)
async def create_sandbox(
    request: Request,
    body: NewSandbox,
    *,
    caller: CallerOf,
    sandboxes: SandboxesOf,
    domain: ClientDomainOf,
    idempotency_key: _IdempotencyKey = None,
) -> Response:
    """Create a sandbox; answers when it runs. The first version of this endpoint."""
    sandbox = await while_connected(request, sandboxes.create(caller, body, idempotency_key))
    return JSONResponse(sandbox_json(sandbox, domain, *sandboxes.tokens(sandbox)), 201)


async def _list_query(
    *,
    metadata: Annotated[
        str | None,
        Query(max_length=16384, description="Only with these entries: a form of percent-encoded pairs"),
    ] = None,
    state: Annotated[
        list[str] | None,
        Query(description="Only in these states, `running`, `paused`; may be repeated or comma-separated"),
    ] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="By start")] = "desc",
    started_after: Annotated[
        AwareDatetime | None, Query(alias="startedAfter", description="Only started then or later")
    ] = None,
    template: Annotated[str | None, Query(max_length=128, description="Only of this template")] = None,
    limit: Annotated[int, Query(ge=1, le=_PAGE_LIMIT)] = _PAGE_LIMIT,
    next_token: Annotated[
        str | None, Query(alias="nextToken", description=f"`{NEXT_PAGE_HEADER}` of the page before")
    ] = None,
) -> ListQuery:
    words = [word.strip() for part in state or () for word in part.split(",") if word.strip()]
    return ListQuery(
        metadata=metadata,
        states=words,
        template=template,
        started_after=started_after,
        is_ascending=order == "asc",
        limit=limit,
        cursor=next_token or None,
    )


@router.get("/v2/sandboxes", response_model=list[ListedSandbox], responses=refusals())
async def list_sandboxes_v2(
    caller: CallerOf, sandboxes: SandboxesOf, query: Annotated[ListQuery, Depends(_list_query)]
) -> Response:
    """A page of the team's running and paused sandboxes, newest first unless `order` says otherwise."""
    found, cursor = await sandboxes.list(caller, query)
    headers = {NEXT_PAGE_HEADER: cursor} if cursor else None
    return JSONResponse([listed_json(sandbox) for sandbox in found], headers=headers)


@router.get("/sandboxes", response_model=list[ListedSandbox], responses=refusals())
async def list_sandboxes(
    caller: CallerOf,
    sandboxes: SandboxesOf,
    metadata: Annotated[
        str | None,
        Query(max_length=16384, description="Only with these entries: a form of percent-encoded pairs"),
    ] = None,
) -> Response:
    """All running sandboxes of the team, newest first. The first version of this endpoint."""
    found, _ = await sandboxes.list(caller, ListQuery(metadata=metadata, states=("running",)))
    return JSONResponse([listed_json(sandbox) for sandbox in found])


@router.get("/sandboxes/{sandbox_id}", response_model=SandboxDetail, responses=refusals(404))
async def get_sandbox(
    sandbox_id: str, credential: CredentialOf, sandboxes: SandboxesOf, domain: ClientDomainOf
) -> Response:
    """One sandbox that has not ended."""
    found = await sandboxes.find(credential, sandbox_id)
    token = sandboxes.token_for(found.caller, found.sandbox)
    return JSONResponse(detail_json(found.sandbox, domain, token))


@router.delete("/sandboxes/{sandbox_id}", status_code=204, responses=refusals(404, 409))
async def kill_sandbox(sandbox_id: str, credential: CredentialOf, sandboxes: SandboxesOf) -> Response:
    """Remove a running or paused sandbox; answers when nothing of it is left."""
    await sandboxes.kill(credential, sandbox_id)
    return Response(status_code=204)
