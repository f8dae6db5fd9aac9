"""Endpoints on API keys, for users. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import MemberOf
from wrenn.control.http import refusals, service
from wrenn.control.keys.service import Keys
from wrenn.control.keys.types import CreateKey, KeyView, NewKey
from wrenn.control.keys.views import key_json

router = APIRouter(tags=["API keys"])


Service = Annotated[Keys, service(Keys)]


@router.post("", status_code=201, response_model=NewKey, responses=refusals(403, 404, 409))
async def create_key(body: CreateKey, member: MemberOf, keys: Service) -> Response:
    """Make a key of the token's team. Its text is in this answer and nowhere else."""
    key, secret = await keys.create(member, body)
    return JSONResponse(key_json(key, secret), 201, {"Cache-Control": "no-store"})


@router.get("", response_model=list[KeyView], responses=refusals(403))
async def list_keys(member: MemberOf, keys: Service) -> Response:
    """The team's keys, newest first."""
    return JSONResponse([key_json(key) for key in await keys.list(member)])


@router.delete("/{key_id}", status_code=204, responses=refusals(403))
async def revoke_key(key_id: str, member: MemberOf, keys: Service) -> Response:
    """Have a key of the team not work any more, from now on. One that is not there is fine."""
    await keys.revoke(member, key_id)
    return Response(status_code=204)
