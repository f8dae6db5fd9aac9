"""The web application: routers under their prefixes, errors, middleware. It holds no state but its services."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Final, Literal

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel

from wrenn.control.http import docs, errors, pages
from wrenn.control.http.middleware import BodyLimit, RequestIds
from wrenn.control.http.queries import refuse_unknown_query
from wrenn.control.http.rate_limits import RateLimits, Rates
from wrenn.protocol.api import CAPSULES_PREFIX, JSON_BODY_LIMIT_B, SANDBOXES_PREFIX

_DESCRIPTION = """Sandboxes for AI agents: small virtual machines that start in well under a second.

A field or query parameter that is unknown is refused with 400. Every path under `/v1/sandboxes` is also served under `/v1/capsules`. Errors have the body
`{"error": {"code", "message"}}`; each answer has the header `X-Request-Id`, under which the log tells more.
"""


_ALIASES: Final = {SANDBOXES_PREFIX: CAPSULES_PREFIX, "/v1/auth/oauth": "/auth/oauth"}
"""Other names of the same endpoints, which public clients and providers know."""


class Health(BaseModel):
    """The control plane answers."""

    status: Literal["ok"]
    version: str


_health = APIRouter(tags=["health"])


@_health.get("/health", response_model=Health)
async def health() -> JSONResponse:
    """That the control plane answers, and its version. Needs no key and asks neither database nor hosts."""
    return JSONResponse({"status": "ok", "version": version("wrenn")})


def build_app(
    routers: Mapping[str, Iterable[APIRouter]],
    services: Mapping[str, object],
    rates: Rates | None = None,
) -> FastAPI:
    """The application with these routers by their prefix; they find their services by name on `app.state`.

    Some prefixes have a second name. Without services only its description can be had.
    """
    app = FastAPI(
        title="Wrenn",
        version=version("wrenn"),
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        dependencies=[Depends(refuse_unknown_query)],
    )
    app.include_router(_health)
    for prefix, those in routers.items():
        for router in those:
            app.include_router(router, prefix=prefix)
            if prefix in _ALIASES:
                app.include_router(router, prefix=_ALIASES[prefix], include_in_schema=False)
    docs.install(app)
    pages.install(app)
    errors.install(app)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, limit_b=JSON_BODY_LIMIT_B, has_own_limit=_is_upload)
    if rates is not None:
        app.add_middleware(RateLimits, rates=rates)
    app.add_middleware(RequestIds)
    for name, service in services.items():
        setattr(app.state, name, service)
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


def _is_upload(path: str) -> bool:
    return path.endswith(("/files/write", "/files/stream/write", "/files/tar/write"))
