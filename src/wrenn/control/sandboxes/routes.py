"""Endpoints that create, list and read sandboxes. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import CallerOf, CredentialOf
from wrenn.control.http import DomainOf, refusals, service, while_connected
from wrenn.control.sandboxes.lookup import Lookup
from wrenn.control.sandboxes.operations.create import Creations
from wrenn.control.sandboxes.operations.running_sandbox import RunningSandboxes
from wrenn.control.sandboxes.selection import SandboxFilter, SortKey
from wrenn.control.sandboxes.types import (
    LABELS_LIMIT,
    PAGE_LIMIT,
    SANDBOX_NAME_LIMIT,
    CreateSandbox,
    SandboxView,
    sandbox_json,
)
from wrenn.protocol.api import CURSOR_HEADER, IDEMPOTENCY_KEY_HEADER

router = APIRouter(tags=["sandboxes"])


async def _sandbox_filter(
    *,
    q: Annotated[
        str,
        Query(
            max_length=SANDBOX_NAME_LIMIT,
            description="Only with this text in name, template or metadata, in upper or lower case, or with an id that begins with it",
        ),
    ] = "",
    name: Annotated[
        str | None, Query(max_length=SANDBOX_NAME_LIMIT, description="Only of this name; `*`: any text")
    ] = None,
    template: Annotated[
        str | None, Query(max_length=SANDBOX_NAME_LIMIT, description="Only of this template")
    ] = None,
    created_by: Annotated[
        str | None,
        Query(max_length=64, description="Only made by the user or API key with this id"),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        Query(max_length=LABELS_LIMIT, description="Only with this entry, `key=value`; may be repeated"),
    ] = None,
    state: Annotated[
        list[str] | None, Query(description="Only in these states; may be repeated or comma-separated")
    ] = None,
    sort: Annotated[
        str | None,
        Query(
            description=f"Order: {', '.join(SortKey)}, with `-` before it for the descending one; absent: `-created_at`"
        ),
    ] = None,
    limit: Annotated[
        int | None, Query(ge=1, le=PAGE_LIMIT, description="So many at a time; absent: all")
    ] = None,
    cursor: Annotated[str | None, Query(description="`X-Next-Cursor` of the page before")] = None,
) -> SandboxFilter:
    return SandboxFilter.parse(
        text=q,
        name=name,
        template=template,
        created_by=created_by,
        metadata=metadata or (),
        state=state or (),
        sort=sort,
        limit=limit,
        cursor=cursor,
    )


@router.post("", status_code=201, response_model=SandboxView, responses=refusals(404, 409, 503, 504, 507))
async def create_sandbox(
    request: Request,
    body: CreateSandbox,
    *,
    caller: CallerOf,
    creations: Annotated[Creations, service(Creations)],
    domain: DomainOf,
    idempotency_key: Annotated[
        str | None,
        Header(alias=IDEMPOTENCY_KEY_HEADER, description="The same key and body: the same sandbox"),
    ] = None,
) -> Response:
    """Create a sandbox; answers when it runs.

    When the client goes away before that, the sandbox is removed, unless the request has an idempotency key.
    """
    sandbox = await while_connected(request, creations.create(caller, body, idempotency_key))
    return JSONResponse(sandbox_json(sandbox, domain), 201)


@router.get("", response_model=list[SandboxView], responses=refusals())
async def list_sandboxes(
    caller: CallerOf,
    lookup: Annotated[Lookup, service(Lookup)],
    domain: DomainOf,
    selected: Annotated[SandboxFilter, Depends(_sandbox_filter)],
) -> Response:
    """The team's sandboxes without those in `stopped` and `error`, newest first unless `sort` says otherwise.

    With `limit` the answer is a page: its header `X-Next-Cursor`, absent on the last page, is the `cursor` of the next one.
    """
    found, cursor = await lookup.list(caller, selected)
    headers = {CURSOR_HEADER: cursor} if cursor else None
    return JSONResponse([sandbox_json(sandbox, domain) for sandbox in found], headers=headers)


@router.get("/{sandbox_id}", response_model=SandboxView, responses=refusals(404))
async def get_sandbox(
    sandbox_id: str, credential: CredentialOf, lookup: Annotated[Lookup, service(Lookup)], domain: DomainOf
) -> Response:
    """One sandbox, in any state."""
    return JSONResponse(sandbox_json(await lookup.get(credential, sandbox_id), domain))


@router.post("/{sandbox_id}/ping", status_code=204, responses=refusals(404, 409, 502, 503))
async def ping_sandbox(
    sandbox_id: str,
    credential: CredentialOf,
    running_sandboxes: Annotated[RunningSandboxes, service(RunningSandboxes)],
) -> Response:
    """Reset the inactivity timer."""
    await running_sandboxes.ping(credential, sandbox_id)
    return Response(status_code=204)
