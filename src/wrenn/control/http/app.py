"""Builds the web application: routers under their prefixes, error handlers, middleware. Its only state is its services."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Literal

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute, APIWebSocketRoute
from pydantic import BaseModel
from starlette.types import Scope

from wrenn.control.http import docs, errors, pages
from wrenn.control.http.answers import describe_refusals
from wrenn.control.http.middleware import BodyLimit, RequestIds
from wrenn.control.http.queries import refuse_unknown_query
from wrenn.control.http.rate_limits import RateLimits, Rates
from wrenn.control.http.services import install as install_services
from wrenn.protocol.api import (
    ADMIN_BUILDS_PREFIX,
    BUILDS_PREFIX,
    CAPSULES_PREFIX,
    JSON_BODY_LIMIT_B,
    SANDBOXES_PREFIX,
    STORE_PREFIX,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

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


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The API description; made at the first call."""
        if self.openapi_schema is None:
            describe_refusals(super().openapi())
        assert self.openapi_schema is not None, "made by FastAPI, which keeps it"
        return self.openapi_schema


def build_app(
    api: APIRouter,
    services: DataclassInstance | None,
    rates: Rates | None = None,
) -> FastAPI:
    """Build the application with the endpoints of `api_router`, which find their services by type.

    Without services the application can only describe itself.
    """
    app = _Application(
        title="Wrenn",
        version=version("wrenn"),
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        routes=api.routes,
    )
    docs.install(app)
    pages.install(app)
    install_rules(app, services, rates, has_own_limit=_is_upload)
    return app


def install_rules(
    app: FastAPI,
    services: DataclassInstance | None,
    rates: Rates | None,
    *,
    has_own_limit: Callable[[str], bool],
    respond: errors.ErrorFormat = errors.error_response,
) -> None:
    """Give an application its services and the rules for every request: request ids, limits, and errors in one format.

    `has_own_limit`: whether the body of a request to this path is limited by its endpoint.
    """
    errors.install(app, respond)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, limit_b=JSON_BODY_LIMIT_B, has_own_limit=has_own_limit, respond=respond)
    if rates is not None:
        app.add_middleware(RateLimits, rates=rates, respond=respond)
    app.add_middleware(RequestIds, respond=respond)
    if services is not None:
        install_services(app, services)


def api_router(routers: Mapping[str, Iterable[APIRouter]]) -> APIRouter:
    """The endpoints of these routers by their prefix; some prefixes have a second name.

    FastAPI works an endpoint out at its first request and keeps that here, so applications of one program share this.
    """
    api = APIRouter(generate_unique_id_function=_operation_id, dependencies=[Depends(refuse_unknown_query)])
    api.include_router(_health)
    for prefix, those in routers.items():
        for router in those:
            api.include_router(router, prefix=prefix)
            if prefix in _ALIASES:
                api.include_router(router, prefix=_ALIASES[prefix], include_in_schema=False)
    return api


def _operation_id(route: APIRoute) -> str:
    return route.name


def _is_upload(path: str) -> bool:
    return (
        path.endswith(("/files/write", "/files/stream/write", "/files/tar/write", "/manifest"))
        or path in (BUILDS_PREFIX, ADMIN_BUILDS_PREFIX)
        or path.startswith(f"{STORE_PREFIX}/")
    )


def route_of(scope: Scope) -> str:
    """Return the path pattern of the endpoint that served a request, for metrics; `other` where there was none."""
    route = scope.get("route")
    if not isinstance(route, APIRoute | APIWebSocketRoute):
        return "other"
    # A route knows its path without the prefix of its router, which has no parameters.
    own = route.path_format.count("/")
    prefix = scope["path"].split("/")[: scope["path"].count("/") + 1 - own]
    return "/".join(prefix) + route.path_format
