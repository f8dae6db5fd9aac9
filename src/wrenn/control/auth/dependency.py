"""FastAPI's view of authentication. It has no state: the authenticator hangs on the application."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.requests import HTTPConnection
from fastapi.security import APIKeyHeader

from wrenn.control.auth.caller import Authenticator, Caller, Credential
from wrenn.protocol.api import API_KEY_HEADER

_header = APIKeyHeader(name=API_KEY_HEADER, auto_error=False, description="`wrn_` + 32 hex digits")


async def _credential(header: Annotated[str | None, Security(_header)]) -> Credential:
    return Credential.parse(header)


async def _caller(request: Request, credential: Annotated[Credential, Depends(_credential)]) -> Caller:
    authenticator: Authenticator = request.app.state.authenticator
    return await authenticator.identify(credential)


def credential_of_socket(socket: HTTPConnection) -> Credential | None:
    """The credential in the handshake of a WebSocket; None: it has none, so its first message must say it.

    A browser cannot set headers there. Cookies are not looked at: any page may open a WebSocket with them.

    Raises:
        Unauthorized: it has not the form of a key.
    """
    header = socket.headers.get(API_KEY_HEADER)
    return None if header is None else Credential.parse(header)


def credential_of_token(token: str) -> Credential:
    """The credential in the first message of a WebSocket: an API key.

    Raises:
        Unauthorized: it has not the form of one.
    """
    return Credential.parse(token)


CredentialOf = Annotated[Credential, Depends(_credential)]
"""For routes whose service looks the key up together with its target, in one query."""
CallerOf = Annotated[Caller, Depends(_caller)]
"""For routes without a target: costs one query."""
