"""Serves the dashboard for GET requests that no endpoint of the API takes."""

from __future__ import annotations

import re
from typing import Final

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from wrenn.control.dashboard.built_files import BuiltDashboard, BuiltFile
from wrenn.telemetry import ROUTE

_OF_THE_API: Final = ("v1/", "docs/", "openapi.", "auth/oauth/", "account/parts/")
"""Paths that begin like this are never pages of the dashboard: there a path that does not exist is an error for programs."""
_ASSETS: Final = "_app/"
"""Here are only files. A script of another release that is missing must fail to load, not be the page."""
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_NEVER: Final = re.compile(r"q\s*=\s*0(\.0*)?")
_NOT_BUILT: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Wrenn</title>
<h1>The dashboard is not built</h1>
<p>The API works: <a href="docs">documentation of the API</a>.</p>
<p>This installation runs from a checkout in which the dashboard was not built. Install Node.js 20.19 or newer, run
<code>make setup</code> in the checkout, and restart the control plane. Released packages contain the dashboard.</p>
</html>
"""
_NOT_BUILT_POLICY: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def install(app: FastAPI, dashboard: BuiltDashboard) -> None:
    """Serve the dashboard where `app` has no endpoint."""
    # `default` is what the router calls when no route matches. A route for all paths would win over 405 answers of endpoints.
    app.router.default = _Dashboard(dashboard, otherwise=app.router.default)


class _Dashboard:
    """The ASGI application for requests that no endpoint takes."""

    def __init__(self, dashboard: BuiltDashboard, otherwise: ASGIApp) -> None:
        self._dashboard = dashboard
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a file, or the page; anything else is for the API, which answers that there is no such path."""
        response = await self._response(scope)
        if response is None:
            await self._otherwise(scope, receive, send)
            return
        scope[ROUTE] = "dashboard"
        await response(scope, receive, send)

    async def _response(self, scope: Scope) -> Response | None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            return None
        path = scope["path"].removeprefix("/")
        headers = Headers(scope=scope)
        if (file := self._dashboard.files.get(path)) is not None:
            return await self._served(file, headers)
        if f"{path}/".startswith((*_OF_THE_API, _ASSETS)) or not _accepts(headers, "accept", "text/html"):
            return None
        if self._dashboard.page is not None:
            return await self._served(self._dashboard.page, headers)
        if path:
            return None
        page_headers = {**_HEADERS, "Content-Security-Policy": _NOT_BUILT_POLICY, "Cache-Control": "no-store"}
        return Response(_NOT_BUILT, 404, page_headers, "text/html")

    async def _served(self, file: BuiltFile, request: Headers) -> Response:
        headers = {
            **_HEADERS,
            "Content-Security-Policy": self._dashboard.content_security_policy,
            "Cache-Control": file.cache_control,
            "ETag": file.etag,
            # The same path is an error in JSON for programs.
            "Vary": "Accept, Accept-Encoding" if file is self._dashboard.page else "Accept-Encoding",
        }
        if _names(request, "if-none-match", file.etag):
            return Response(status_code=304, headers=headers)
        content = file.content
        if _accepts(request, "accept-encoding", "gzip"):
            compressed = await run_in_threadpool(lambda: file.compressed)
            if compressed is not None:
                content = compressed
                headers["Content-Encoding"] = "gzip"
        return Response(content, headers={**headers, "Content-Type": file.media_type})


def _accepts(headers: Headers, name: str, wanted: str) -> bool:
    """Whether a header like `Accept` names this value, with a weight above 0."""
    for part in ",".join(headers.getlist(name)).split(","):
        value, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if value == wanted:
            return not any(_NEVER.fullmatch(parameter) for parameter in parameters)
    return False


def _names(headers: Headers, name: str, etag: str) -> bool:
    """Whether a list of validators has this one. Validators of GET are compared weakly."""
    values = [value.strip() for value in ",".join(headers.getlist(name)).split(",")]
    return "*" in values or etag.removeprefix("W/") in (value.removeprefix("W/") for value in values)
