"""Endpoints on sandboxes as a whole. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import CallerOf, CredentialOf
from wrenn.control.http import while_connected
from wrenn.control.sandboxes.answers import refusals
from wrenn.control.sandboxes.service import Sandboxes
from wrenn.control.sandboxes.types import CreateSandbox, SandboxView, sandbox_json
from wrenn.protocol.api import IDEMPOTENCY_KEY_HEADER

router = APIRouter(tags=["sandboxes"])


def _sandboxes(request: Request) -> Sandboxes:
    return request.app.state.sandboxes


Service = Annotated[Sandboxes, Depends(_sandboxes)]


@router.post("", status_code=201, response_model=SandboxView, responses=refusals(404, 409, 503, 504, 507))
async def create_sandbox(
    request: Request,
    body: CreateSandbox,
    caller: CallerOf,
    sandboxes: Service,
    idempotency_key: Annotated[
        str | None,
        Header(alias=IDEMPOTENCY_KEY_HEADER, description="The same key and body: the same sandbox"),
    ] = None,
) -> Response:
    """Create a sandbox; answers when it runs.

    When the client goes away before that, the sandbox is removed, unless the request has an idempotency key.
    """
    sandbox = await while_connected(request, sandboxes.create(caller, body, idempotency_key))
    return JSONResponse(sandbox_json(sandbox), 201)


@router.get("", response_model=list[SandboxView], responses=refusals())
async def list_sandboxes(caller: CallerOf, sandboxes: Service) -> Response:
    """The team's sandboxes, newest first, without those in `stopped` and `error`."""
    return JSONResponse([sandbox_json(sandbox) for sandbox in await sandboxes.list(caller)])


@router.get("/{sandbox_id}", response_model=SandboxView, responses=refusals(404))
async def get_sandbox(sandbox_id: str, credential: CredentialOf, sandboxes: Service) -> Response:
    """One sandbox, in any state."""
    return JSONResponse(sandbox_json(await sandboxes.get(credential, sandbox_id)))


@router.delete("/{sandbox_id}", status_code=204, responses=refusals(404, 503))
async def delete_sandbox(sandbox_id: str, credential: CredentialOf, sandboxes: Service) -> Response:
    """Remove a sandbox; answers when nothing of it is left. Again is fine."""
    await sandboxes.delete(credential, sandbox_id)
    return Response(status_code=204)


@router.post("/{sandbox_id}/ping", status_code=204, responses=refusals(404, 409, 502, 503))
async def ping_sandbox(sandbox_id: str, credential: CredentialOf, sandboxes: Service) -> Response:
    """Reset the inactivity timer."""
    await sandboxes.ping(credential, sandbox_id)
    return Response(status_code=204)
