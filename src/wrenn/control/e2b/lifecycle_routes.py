"""Endpoints of the e2b API for the life of a sandbox after its creation. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import CredentialOf
from wrenn.control.e2b.domain import ClientDomainOf
from wrenn.control.e2b.errors import refusals
from wrenn.control.e2b.sandbox_routes import SandboxesOf
from wrenn.control.e2b.sandbox_types import (
    ConnectSandbox,
    ConnectSandboxV2,
    ForkRequest,
    ForkResult,
    NetworkUpdate,
    PauseRequest,
    RefreshRequest,
    ResumedSandbox,
    SandboxView,
    TimeoutRequest,
)
from wrenn.control.e2b.views import sandbox_json
from wrenn.control.http import while_connected

router = APIRouter(prefix="/sandboxes/{sandbox_id}", tags=["sandboxes"])
v2_router = APIRouter(prefix="/v2/sandboxes/{sandbox_id}", tags=["sandboxes"])
_CHANGE_REFUSALS: Final = refusals(404, 409, 501, 502, 504, 507)
_CONNECTED: Final = {**_CHANGE_REFUSALS, 201: {"model": SandboxView, "description": "It was resumed"}}


@router.post("/timeout", status_code=204, responses=refusals(404, 409, 502, 504, 507))
async def set_sandbox_timeout(
    sandbox_id: str, body: TimeoutRequest, credential: CredentialOf, sandboxes: SandboxesOf
) -> Response:
    """Have a running sandbox end so many seconds from now, also earlier than before."""
    await sandboxes.set_timeout(credential, sandbox_id, body.timeout)
    return Response(status_code=204)


@router.post("/refreshes", status_code=204, responses=refusals(404, 409))
async def refresh_sandbox(
    sandbox_id: str, body: RefreshRequest, credential: CredentialOf, sandboxes: SandboxesOf
) -> Response:
    """Have a running sandbox live so many seconds from now at least."""
    await sandboxes.refresh(credential, sandbox_id, body.duration)
    return Response(status_code=204)


@router.post("/pause", status_code=204, responses=_CHANGE_REFUSALS)
async def pause_sandbox(
    sandbox_id: str, credential: CredentialOf, sandboxes: SandboxesOf, body: PauseRequest | None = None
) -> Response:
    """Pause a running sandbox, with its memory unless `memory` is false; answers when it is paused."""
    await sandboxes.pause(credential, sandbox_id, memory=body is None or body.memory)
    return Response(status_code=204)


@router.post("/resume", status_code=201, response_model=SandboxView, responses=_CHANGE_REFUSALS)
async def resume_sandbox(
    sandbox_id: str,
    body: ResumedSandbox,
    credential: CredentialOf,
    sandboxes: SandboxesOf,
    domain: ClientDomainOf,
) -> Response:
    """Resume a paused sandbox; answers when it runs."""
    sandbox = await sandboxes.resume(
        credential, sandbox_id, body.timeout, auto_pause=body.auto_pause, memory=body.memory
    )
    return JSONResponse(sandbox_json(sandbox, domain, *sandboxes.tokens(sandbox)), 201)


@router.post("/connect", response_model=SandboxView, responses=_CONNECTED)
async def connect_sandbox(
    sandbox_id: str,
    body: ConnectSandbox,
    credential: CredentialOf,
    sandboxes: SandboxesOf,
    domain: ClientDomainOf,
) -> Response:
    """Resume a sandbox if it is paused, and extend its life if it ends earlier. The first version of this endpoint."""
    sandbox, was_resumed = await sandboxes.connect(credential, sandbox_id, body.timeout)
    return JSONResponse(
        sandbox_json(sandbox, domain, *sandboxes.tokens(sandbox)), 201 if was_resumed else 200
    )


@v2_router.post("/connect", response_model=SandboxView, responses=_CONNECTED)
async def connect_sandbox_v2(
    sandbox_id: str,
    body: ConnectSandboxV2,
    credential: CredentialOf,
    sandboxes: SandboxesOf,
    domain: ClientDomainOf,
) -> Response:
    """Resume a sandbox if it is paused, and extend its life if it ends earlier."""
    sandbox, was_resumed = await sandboxes.connect(credential, sandbox_id, body.timeout, memory=body.memory)
    return JSONResponse(
        sandbox_json(sandbox, domain, *sandboxes.tokens(sandbox)), 201 if was_resumed else 200
    )


@router.post("/fork", status_code=201, response_model=list[ForkResult], responses=_CHANGE_REFUSALS)
async def fork_sandbox(
    request: Request,
    sandbox_id: str,
    body: ForkRequest,
    *,
    credential: CredentialOf,
    sandboxes: SandboxesOf,
    domain: ClientDomainOf,
) -> Response:
    """Make copies of a running sandbox, with its memory, processes and files; answers when all run.

    All copies are made or none.
    """
    copies = await while_connected(
        request, sandboxes.fork(credential, sandbox_id, count=body.count, timeout_s=body.timeout)
    )
    made = [{"sandbox": sandbox_json(each, domain, *sandboxes.tokens(each))} for each in copies]
    return JSONResponse(made, 201)


@router.put("/network", status_code=204, responses=_CHANGE_REFUSALS)
async def set_sandbox_network(
    sandbox_id: str, body: NetworkUpdate, credential: CredentialOf, sandboxes: SandboxesOf
) -> Response:
    """Replace what a sandbox may reach; what is left out is cleared. Answers when it is in force, also for open connections."""
    await sandboxes.set_network(credential, sandbox_id, body)
    return Response(status_code=204)
