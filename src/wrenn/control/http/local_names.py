"""Refuses accounts to web pages that reach a local installation by DNS rebinding.

A page of any site can have its own name resolve to 127.0.0.1 while it is open. Its requests then go to the API that listens there,
and to the browser they are of the page's own origin. Such a page could sign up, unless the API looks at the name by which it is called.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from wrenn.base.errors import Forbidden
from wrenn.control.http.errors import error_response
from wrenn.relay import header_value

_ACCOUNTS: Final = "/v1/auth/"


def is_local_name(host: str) -> bool:
    """Return whether `host`, perhaps with a port, can mean this machine only: `localhost`, a name below it, or a loopback address."""
    with suppress(ValueError):
        # Without a port; `[::1]` and names are left to what follows.
        return ip_address(host).is_loopback
    name = _name_in(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _name_in(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


class LocalNamesOnly:
    """ASGI middleware for an API that listens only on its own machine: accounts are reached by local names, and that of `public_url`, only."""

    def __init__(self, app: ASGIApp, public_url: str | None) -> None:
        self._app = app
        self._public_name = _name_in(urlsplit(public_url or "").netloc)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket, or refuse it."""
        if scope["type"] == "http" and scope["path"].startswith(_ACCOUNTS):
            host = (header_value(scope["headers"], b"host") or b"").decode("latin-1")
            if not is_local_name(host) and (not self._public_name or _name_in(host) != self._public_name):
                error = Forbidden(
                    "This API listens on its own machine only: call it by localhost, or set WRENN_PUBLIC_URL to the URL"
                    " by which it is reached."
                )
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
