"""Serves the tools over standard input and output, for one client, or over HTTP, for many.

Over HTTP each client sends its own API key as `Authorization: Bearer`, and this program has no credentials: what a client may do is
decided by the platform.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from typing import Final

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import AnyHttpUrl

from wrenn.mcp.session import Limits, Session, name_of_key
from wrenn.mcp.tools import INSTRUCTIONS, add_tools
from wrenn.sdk import AsyncSandbox, AuthenticationError, ForbiddenError, WrennError
from wrenn.sdk.settings import chosen_base_url

_KNOWN_S: Final = 30.0
"""How long a key counts as valid without asking again. Each tool's own call is checked by the platform anyway."""
_REFUSED_S: Final = 10.0
"""How long a refused key is refused without asking again: the platform counts wrong keys of this program's address."""
_KNOWN: Final = 1024
_KEY: Final = re.compile(r"(?:wrn|e2b)_[0-9a-f]{8,128}")
"""What can be a key: nothing else is sent to the platform."""
_LOCAL: Final = ("127.0.0.1", "localhost", "[::1]")


async def serve_stdio(limits: Limits, session_name: str) -> None:
    """Serve one client until its end of input, with the credentials of this program."""
    session = Session(session_name, limits)
    server = MCPServer("wrenn", title="Wrenn sandboxes", instructions=INSTRUCTIONS, log_level="WARNING")
    add_tools(server, lambda: session)
    await server.run_stdio_async()


async def serve_http(host: str, port: int, limits: Limits, *, allowed_hosts: tuple[str, ...] = ()) -> None:
    """Serve clients at `http://host:port/mcp` until the program is terminated.

    Args:
        host: address to listen on.
        port: port to listen on.
        limits: what the sessions of each key may use.
        allowed_hosts: names under which clients may call, besides those of loopback and `host`. A request under another name is
            refused, since a page in a browser could have sent it (DNS rebinding).
    """
    names = (*_LOCAL, host, *allowed_hosts)
    server = MCPServer(
        "wrenn",
        title="Wrenn sandboxes",
        instructions=INSTRUCTIONS,
        log_level="WARNING",
        token_verifier=PlatformKeys(),
        auth=AuthSettings(issuer_url=AnyHttpUrl(chosen_base_url()), resource_server_url=None),
    )
    add_tools(server, lambda: _session_of_caller(limits))
    await server.run_streamable_http_async(
        host=host,
        port=port,
        transport_security=TransportSecuritySettings(
            allowed_hosts=[name for known in names for name in (known, f"{known}:*")],
            allowed_origins=[f"{scheme}://{known}:*" for known in names for scheme in ("http", "https")],
        ),
    )


def _session_of_caller(limits: Limits) -> Session:
    token = get_access_token()
    assert token is not None, "requests without a valid token are refused before"
    return Session(name_of_key(token.token), limits, token.token)


class PlatformKeys:
    """Accepts bearer tokens that the platform accepts as API keys (`mcp.server.auth.provider.TokenVerifier`)."""

    def __init__(self) -> None:
        self._valid_until: OrderedDict[bytes, float] = OrderedDict()
        self._refused_until: OrderedDict[bytes, float] = OrderedDict()

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return the client of a key; None: the platform does not know it."""
        digest = hashlib.sha256(token.encode()).digest()
        if not _KEY.fullmatch(token) or self._refused_until.get(digest, 0) > time.monotonic():
            return None
        if self._valid_until.get(digest, 0) < time.monotonic():
            try:
                await AsyncSandbox.list(limit=1, api_key=token)
            except (AuthenticationError, ForbiddenError):
                self._valid_until.pop(digest, None)
                _remember(self._refused_until, digest, _REFUSED_S)
                return None
            except WrennError:
                # The platform does not say now. A key that was valid stays so: each tool tells the model what fails.
                return self._client(token) if digest in self._valid_until else None
            _remember(self._valid_until, digest, _KNOWN_S)
        return self._client(token)

    @staticmethod
    def _client(token: str) -> AccessToken:
        return AccessToken(token=token, client_id=name_of_key(token), scopes=[])


def _remember(known: OrderedDict[bytes, float], digest: bytes, keep_s: float) -> None:
    known[digest] = time.monotonic() + keep_s
    known.move_to_end(digest)
    while len(known) > _KNOWN:
        known.popitem(last=False)
