"""Endpoints on the own account. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import AccountOf, MemberOf
from wrenn.control.http import refusals, service
from wrenn.control.profile.service import Profiles
from wrenn.control.profile.types import ChangePassword, DeleteMe, MeView, PatchMe
from wrenn.control.profile.views import me_json
from wrenn.control.sessions import AuthResponse, signed_in_json

router = APIRouter(tags=["account"])


Service = Annotated[Profiles, service(Profiles)]


@router.get("", response_model=MeView, responses=refusals(403))
async def get_me(account: AccountOf, profiles: Service) -> Response:
    """The own account."""
    return JSONResponse(me_json(await profiles.get(account)))


@router.patch("", response_model=AuthResponse, responses=refusals(403))
async def patch_me(body: PatchMe, member: MemberOf, profiles: Service) -> Response:
    """Another name, and a token that has it."""
    return JSONResponse(signed_in_json(await profiles.rename(member, body.name)))


@router.delete("", status_code=204, responses=refusals(403, 409))
async def delete_me(body: DeleteMe, account: AccountOf, profiles: Service) -> Response:
    """End the own account, at once, with the teams that it alone belongs to and all that they have.

    The e-mail address, name and password are erased. Not while a team of one's own has other members.
    """
    await profiles.delete(account, body.confirmation)
    return Response(status_code=204)


@router.post("/password", status_code=204, responses=refusals(403, 429))
async def change_password(body: ChangePassword, account: AccountOf, profiles: Service) -> Response:
    """Another password; ends all other sessions of the user."""
    await profiles.change_password(account, body)
    return Response(status_code=204)


@router.delete("/providers/{provider}", status_code=204, responses=refusals(403, 404))
async def unlink_provider(provider: str, account: AccountOf, profiles: Service) -> Response:
    """Not be let in by this provider any more. Not where it is the only way in."""
    await profiles.unlink(account, provider)
    return Response(status_code=204)
