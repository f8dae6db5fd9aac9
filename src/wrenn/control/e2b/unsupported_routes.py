"""What the e2b API has and this platform does not: refused with 501 by name, not as paths that do not exist."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from wrenn.control.auth import CallerOf
from wrenn.control.e2b.errors import NotSupported, refusals

router = APIRouter(tags=["not supported"])
_REFUSALS: Final = refusals(501)


def _refuse(path: str, methods: str, what: str, name: str) -> None:
    """Add endpoints that tell a caller with a valid credential that there is no such thing here."""

    async def not_supported(_caller: CallerOf) -> None:
        raise NotSupported(f"{what} are not supported on this platform.")

    not_supported.__doc__ = f"{what} are not supported on this platform."
    for method in methods.split():
        router.add_api_route(
            path,
            not_supported,
            methods=[method],
            name=f"{method.lower()}_{name}",
            status_code=501,
            responses=_REFUSALS,
        )


_refuse("/volumes", "GET POST", "Volumes", "volumes")
_refuse("/volumes/{volume_id}", "GET DELETE", "Volumes", "volume")
_refuse("/secrets", "GET POST", "Secrets", "secrets")
_refuse("/secrets/{secret_id}", "GET POST DELETE", "Secrets", "secret")
