"""FastAPI dependencies for authentication. They have no state: services are found on the application."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Security
from fastapi.requests import HTTPConnection
from fastapi.security import APIKeyHeader, HTTPBearer

from wrenn.base.errors import Unauthorized
from wrenn.control.auth.authenticator import Authenticator
from wrenn.control.auth.caller import Account, Caller, Member
from wrenn.control.auth.credential import (
    NO_CREDENTIAL,
    USER_NEEDED,
    ApiKey,
    Credential,
    UserToken,
    operation_of,
)
from wrenn.control.auth.tokens import Tokens
from wrenn.control.http import service_of
from wrenn.protocol.api import API_KEY_HEADER, API_KEY_START, E2B_KEY_START, HOST_CREDENTIAL_HEADER

_key_header = APIKeyHeader(
    name=API_KEY_HEADER,
    scheme_name="ApiKey",
    auto_error=False,
    description="`wrn_` + 32 hex digits, or `e2b_` + 40",
)
_host_token = APIKeyHeader(
    name=HOST_CREDENTIAL_HEADER,
    scheme_name="HostToken",
    auto_error=False,
    description="The `token` of `POST /v1/hosts/register` or `/v1/hosts/auth/refresh`",
)
HostTokenOf = Annotated[str | None, Security(_host_token)]
"""The token that the agent of a host sent, not verified yet."""
_bearer = HTTPBearer(
    scheme_name="UserToken",
    bearerFormat="JWT",
    auto_error=False,
    description="The `token` of `POST /v1/auth/login` or `/v1/auth/refresh`",
)


def credential_of(connection: HTTPConnection) -> Credential:
    """Return the credential of a request or WebSocket: its API key if it has one, else its user token.

    Raises:
        Unauthorized: nothing, or nothing that can be valid.
    """
    key = connection.headers.get(API_KEY_HEADER)
    return _token_of(connection, NO_CREDENTIAL) if key is None else _key_of(connection, key)


def credential_of_socket(socket: HTTPConnection) -> Credential | None:
    """Return the credential in the handshake of a WebSocket; None: it must come in the first message.

    A browser cannot set headers there. Cookies are not looked at: any page may open a WebSocket with them.

    Raises:
        Unauthorized: what it shows cannot be valid.
    """
    if API_KEY_HEADER in socket.headers or "authorization" in socket.headers:
        return credential_of(socket)
    return None


def credential_of_token(socket: HTTPConnection, token: str) -> Credential:
    """Parse the credential in the first message of a WebSocket: an API key or a user's token.

    Raises:
        Unauthorized: it cannot be valid.
    """
    if token.startswith((API_KEY_START, E2B_KEY_START)):
        return _key_of(socket, token)
    return service_of(socket, Tokens).read(token)


def _key_of(connection: HTTPConnection, key: str) -> ApiKey:
    scope = connection.scope
    operation = operation_of(
        is_http=scope["type"] == "http", method=scope.get("method", ""), path=scope["path"]
    )
    return ApiKey.parse(key, operation)


def _token_of(connection: HTTPConnection, otherwise: str) -> UserToken:
    kind, _, text = connection.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not text:
        raise Unauthorized(otherwise)
    return service_of(connection, Tokens).read(text.strip())


# The parameters without use put the ways to authenticate into the description of the API.
async def _credential(
    connection: HTTPConnection,
    _key: Annotated[str | None, Security(_key_header)],
    _token: Annotated[object, Security(_bearer)],
) -> Credential:
    return credential_of(connection)


async def _token(connection: HTTPConnection, _token: Annotated[object, Security(_bearer)]) -> UserToken:
    # A key that is shown is what speaks; whoever sends both may not mean what the token may do.
    if connection.headers.get(API_KEY_HEADER) is not None:
        raise Unauthorized(USER_NEEDED)
    return _token_of(connection, USER_NEEDED)


def _authenticator(connection: HTTPConnection) -> Authenticator:
    return service_of(connection, Authenticator)


async def _caller(
    connection: HTTPConnection, credential: Annotated[Credential, Depends(_credential)]
) -> Caller:
    return await _authenticator(connection).identify(credential)


async def _member(connection: HTTPConnection, token: Annotated[UserToken, Depends(_token)]) -> Member:
    return await _authenticator(connection).member(token)


async def _account(connection: HTTPConnection, token: Annotated[UserToken, Depends(_token)]) -> Account:
    return await _authenticator(connection).account(token)


async def _optional_account(
    connection: HTTPConnection, unused: Annotated[object, Security(_bearer)]
) -> Account | None:
    if not {"authorization", API_KEY_HEADER.lower()} & set(connection.headers):
        return None
    return await _authenticator(connection).account(await _token(connection, unused))


async def _admin(connection: HTTPConnection, token: Annotated[UserToken, Depends(_token)]) -> Account:
    return await _authenticator(connection).admin(token)


CredentialOf = Annotated[Credential, Depends(_credential)]
"""For routes whose service looks the caller up together with its target, in one query."""
CallerOf = Annotated[Caller, Depends(_caller)]
"""For routes without a target: costs one query."""
MemberOf = Annotated[Member, Depends(_member)]
"""For what a user does in the token's team, and keys may not: costs one query."""
AccountOf = Annotated[Account, Depends(_account)]
"""For what a user does with the own account, also when the token's team is gone: costs one query."""
OptionalAccountOf = Annotated[Account | None, Depends(_optional_account)]
"""The same where there may be another way to say who it is; None: no token."""
AdminOf = Annotated[Account, Depends(_admin)]
"""For admins of the platform: costs one query."""
