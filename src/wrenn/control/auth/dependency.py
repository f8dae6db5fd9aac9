"""FastAPI's view of authentication. It has no state: the authenticator hangs on the application."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader

from wrenn.control.auth.caller import Authenticator, Caller, Credential
from wrenn.protocol.api import API_KEY_HEADER

_header = APIKeyHeader(name=API_KEY_HEADER, auto_error=False, description="`wrn_` + 32 hex digits")


async def _credential(header: Annotated[str | None, Security(_header)]) -> Credential:
    return Credential.parse(header)


async def _caller(request: Request, credential: Annotated[Credential, Depends(_credential)]) -> Caller:
    authenticator: Authenticator = request.app.state.authenticator
    return await authenticator.identify(credential)


CredentialOf = Annotated[Credential, Depends(_credential)]
"""For routes whose service looks the key up together with its target, in one query."""
CallerOf = Annotated[Caller, Depends(_caller)]
"""For routes without a target: costs one query."""
