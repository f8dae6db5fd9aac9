"""Endpoints on credentials of registries. Each parses, makes one call, answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import CallerOf
from wrenn.control.http import refusals, service
from wrenn.control.registries.service import RegistryCredentials
from wrenn.control.registries.types import RegistryCredentialsView, SetRegistryCredentials, login_json

router = APIRouter(tags=["registries"])

Service = Annotated[RegistryCredentials, service(RegistryCredentials)]


@router.post("", status_code=201, response_model=RegistryCredentialsView, responses=refusals(409))
async def set_registry_credentials(
    body: SetRegistryCredentials, caller: CallerOf, registries: Service
) -> Response:
    """Set the credentials with which the team's builds and imports pull from a registry; former ones are replaced."""
    return JSONResponse(login_json(await registries.set(caller, body)), 201)


@router.get("", response_model=list[RegistryCredentialsView], responses=refusals())
async def list_registry_credentials(caller: CallerOf, registries: Service) -> Response:
    """The team's credentials by registry, without passwords."""
    return JSONResponse([login_json(login) for login in await registries.list(caller)])


@router.delete("/{registry}", status_code=204, responses=refusals())
async def remove_registry_credentials(registry: str, caller: CallerOf, registries: Service) -> Response:
    """Remove the credentials of a registry. None that are there is fine."""
    await registries.remove(caller, registry)
    return Response(status_code=204)
