"""The pages that links in mails lead to: to join a team, to verify an address, to choose another password.

They are plain files. The secret is in the part of the address that a browser sends to nobody; the page's program posts it when a
person presses the button, so a mail scanner that opens links uses none up. Paths are relative, as a proxy may put all of this
below a path of its own.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

PAGES: Final = {
    "/account/invitation": "invitation.html",
    "/account/verify-email": "verify-email.html",
    "/account/reset-password": "reset-password.html",
}
"""By their path; `accounts/letters.py` makes the links."""
_PARTS: Final = {
    "/account/parts/account.js": "account.js",
    "/account/parts/account.css": "account.css",
}
_MEDIA_TYPES: Final = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
_HEADERS: Final = {
    # Nothing from elsewhere, nothing inline, no form that is sent without our program, no frame around it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def install(app: FastAPI) -> None:
    """Serve the pages and their parts."""
    for path, name in {**PAGES, **_PARTS}.items():
        _serve(app, path, name)


def _serve(app: FastAPI, path: str, name: str) -> None:
    content = files(__name__).joinpath(name).read_bytes()
    media_type = _MEDIA_TYPES[name.rpartition(".")[2]]

    async def page(_request: Request) -> Response:
        return Response(content, headers=_HEADERS, media_type=media_type)

    app.add_route(path, page, include_in_schema=False)
