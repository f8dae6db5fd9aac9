"""The endpoint that creates links. Visits themselves are not endpoints: see `app.py`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, StrictInt

from wrenn.control.auth import CredentialOf
from wrenn.control.http import DomainOf, RequestBody, refusals, service, wire_time
from wrenn.control.proxy.links import EXPIRY_LIMIT_S, Links

router = APIRouter(prefix="/{sandbox_id}/ports/{port}", tags=["ports"])


class MakeLink(RequestBody):
    """For how long the link opens the port."""

    expires_in_sec: StrictInt = Field(3600, ge=1, le=EXPIRY_LIMIT_S)


class LinkView(BaseModel):
    """A link that needs no key. Whoever has it may visit the port."""

    url: str
    expires_at: datetime


@router.post("/link", status_code=201, response_model=LinkView, responses=refusals(404, 409))
async def create_port_link(
    request: Request,
    sandbox_id: str,
    port: int,
    *,
    body: MakeLink,
    credential: CredentialOf,
    links: Annotated[Links, service(Links)],
    domain: DomainOf,
) -> Response:
    """Make a link to a port of a sandbox that a browser can open without a key, until it expires."""
    link = await links.create(
        credential,
        sandbox_id,
        port,
        expires_in_s=body.expires_in_sec,
        scheme=request.url.scheme,
        domain=domain,
    )
    return JSONResponse({"url": link.url, "expires_at": wire_time(link.expires_at)}, 201)
