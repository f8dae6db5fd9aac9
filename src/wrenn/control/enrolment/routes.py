"""Endpoints for the agents of hosts. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from wrenn.base.errors import TooLarge
from wrenn.control.auth import HostTokenOf
from wrenn.control.enrolment.service import Credentials, Enrolment
from wrenn.control.enrolment.types import (
    HEARTBEAT_ANSWER,
    HEARTBEAT_BODY,
    HEARTBEAT_LIMIT_B,
    HostCredentials,
    RefreshHost,
    RegisterHost,
)
from wrenn.control.hosts import host_json
from wrenn.control.http import Browsers, refusals, service
from wrenn.protocol.api import HOST_RENEWAL_HEADER

router = APIRouter(tags=["hosts"])

EnrolmentOf = Annotated[Enrolment, service(Enrolment)]
BrowsersOf = Annotated[Browsers, service(Browsers)]


@router.post("/register", status_code=201, response_model=HostCredentials, responses=refusals(409, 429))
async def register_host(
    request: Request, body: RegisterHost, enrolment: EnrolmentOf, browsers: BrowsersOf
) -> Response:
    """Register the agent of a host with its one-time token; returns its credentials.

    A host that had registered before keeps its id and its sandboxes; its former credentials stop working when the new
    ones are used.
    """
    return _answer(await enrolment.register(body, browsers.address_of(request)), 201)


@router.post("/auth/refresh", response_model=HostCredentials, responses=refusals(404, 429))
async def refresh_host(
    request: Request, body: RefreshHost, enrolment: EnrolmentOf, browsers: BrowsersOf
) -> Response:
    """New credentials for the agent of a host. 404 with the code `host_deleted`: the host was deleted."""
    return _answer(await enrolment.refresh(body, browsers.address_of(request)), 200)


@router.post(
    "/{host_id}/heartbeat",
    status_code=204,
    responses={**refusals(403, 404, 413, 429), **HEARTBEAT_ANSWER},
    openapi_extra=HEARTBEAT_BODY,
)
async def host_heartbeat(
    host_id: str,
    request: Request,
    enrolment: EnrolmentOf,
    token: HostTokenOf,
) -> Response:
    """That the agent of a host is alive, and what it says of the host. 404 with the code `host_deleted`: it was deleted."""
    sender = enrolment.sender_of(token, host_id)
    is_renewal_due = await enrolment.heartbeat(sender, await _read_body(request))
    return Response(status_code=204, headers={HOST_RENEWAL_HEADER: "1"} if is_renewal_due else None)


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > HEARTBEAT_LIMIT_B:
            raise TooLarge(f"The body has more than {HEARTBEAT_LIMIT_B // 1024} KiB.")
    return bytes(body)


def _answer(credentials: Credentials, status: int) -> Response:
    content = {
        "host": host_json(credentials.host),
        "token": credentials.token.reveal(),
        "refresh_token": credentials.refresh_token.reveal(),
        "cert_pem": credentials.cert_pem,
        "ca_cert_pem": credentials.trusted_pem,
    }
    return JSONResponse(content, status, {"Cache-Control": "no-store"})
