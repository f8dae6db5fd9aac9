"""The web application of the e2b API, and the choice between it and the platform's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Literal

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel

from wrenn.control.e2b import (
    lifecycle_routes,
    log_routes,
    metric_routes,
    sandbox_routes,
    snapshot_routes,
    template_list_routes,
    template_routes,
    unsupported_routes,
)
from wrenn.control.e2b.domain import is_api_host
from wrenn.control.e2b.errors import error_response
from wrenn.control.http import Rates
from wrenn.control.http.app import install_rules
from wrenn.protocol.api import E2B_PREFIX, E2B_UPLOADS_PREFIX
from wrenn.relay import Receive, Scope, Send, header_value

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_DESCRIPTION: Final = """The API of e2b, so that its clients can be used with this platform: set `E2B_API_URL` to `<address>/e2b`.

Fields that are unknown here are ignored. Errors have the body `{"code", "message", "error_code"}`, where `code` is the HTTP status.
"""
_OWN_PATHS: Final = "/v1/"
"""Paths of the platform's own API: the e2b API has none that begins like that."""

_health = APIRouter(tags=["health"])


class Health(BaseModel):
    """The control plane answers."""

    status: Literal["ok"]


@_health.get("/health", response_model=Health)
async def health() -> JSONResponse:
    """That the control plane answers. Needs no key."""
    return JSONResponse({"status": "ok"})


def _operation_id(route: APIRoute) -> str:
    return f"e2b_{route.name}"


def _e2b_router() -> APIRouter:
    # FastAPI works an endpoint out at its first request and keeps that here, so applications of one program share this.
    api = APIRouter(generate_unique_id_function=_operation_id)
    for router in (
        _health,
        # Before those that take any word for the id of a sandbox.
        metric_routes.router,
        sandbox_routes.router,
        lifecycle_routes.router,
        lifecycle_routes.v2_router,
        snapshot_routes.router,
        template_routes.router,
        template_list_routes.router,
        log_routes.router,
        unsupported_routes.router,
    ):
        api.include_router(router, prefix=E2B_PREFIX)
    return api


API: Final = _e2b_router()


def build_e2b_app(services: DataclassInstance | None, rates: Rates | None = None) -> FastAPI:
    """Build the application, whose paths begin with `/e2b`. Without services it can only describe itself."""
    app = FastAPI(
        title="Wrenn: API of e2b",
        version=version("wrenn"),
        description=_DESCRIPTION,
        openapi_url=f"{E2B_PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        routes=API.routes,
    )
    install_rules(app, services, rates, has_own_limit=_has_own_limit, respond=error_response)
    return app


def _has_own_limit(path: str) -> bool:
    return path.startswith(E2B_UPLOADS_PREFIX)


class E2bEdge:
    """ASGI application that passes requests for the e2b API to it, and everything else to the platform's own.

    They are for the e2b API if their path is below `/e2b`, or if their host is `api.<domain>`; there only the paths of the
    platform's own API are left to that.
    """

    def __init__(
        self,
        api: Callable[[Any, Any, Any], Awaitable[None]],
        e2b: Callable[[Any, Any, Any], Awaitable[None]],
        *,
        domain: str,
    ) -> None:
        self._api = api
        self._e2b = e2b
        self._domain = domain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        if scope["type"] != "http":
            await self._api(scope, receive, send)
            return
        path: str = scope["path"]
        if path == E2B_PREFIX or path.startswith(f"{E2B_PREFIX}/"):
            await self._e2b(scope, receive, _uncached(send))
            return
        host = (header_value(scope["headers"], b"host") or b"").decode("latin-1")
        if is_api_host(self._domain, host) and not path.startswith(_OWN_PATHS):
            # In place: what is around this reads the route from the same scope.
            scope["path"] = E2B_PREFIX + path
            scope["raw_path"] = E2B_PREFIX.encode() + (scope.get("raw_path") or path.encode())
            await self._e2b(scope, receive, _uncached(send))
            return
        await self._api(scope, receive, send)


def _uncached(send: Send) -> Send:
    """Mark every response as one that no cache keeps: some have tokens, and caches do not take a key in `X-API-Key` for a credential."""

    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            others = [(name, value) for name, value in message["headers"] if name.lower() != b"cache-control"]
            message = {**message, "headers": [*others, (b"cache-control", b"no-store")]}
        await send(message)

    return sent
