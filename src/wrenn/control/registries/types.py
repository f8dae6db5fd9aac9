"""Messages about credentials of registries."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, Field, SecretStr

from wrenn.control.http import RequestBody, nul_free_text, plain_text, wire_time
from wrenn.control.registries.names import checked_registry
from wrenn.control.registries.store import RegistryLogin

_PASSWORD_LIMIT: Final = 8192
"""Some registries take a whole JSON document as password."""


def _username(value: str) -> str:
    # It is sent as `user:password`.
    if ":" in plain_text(value):
        raise ValueError("must have no colon")
    return value


def _password(value: SecretStr) -> SecretStr:
    nul_free_text(value.get_secret_value())
    return value


Username = Annotated[str, AfterValidator(_username), Field(min_length=1, max_length=256)]
Password = Annotated[SecretStr, AfterValidator(_password), Field(min_length=1, max_length=_PASSWORD_LIMIT)]


class SetRegistryCredentials(RequestBody):
    """Credentials of one registry."""

    registry: Annotated[str, AfterValidator(checked_registry)] = Field(
        description="`HOST` or `HOST:PORT`, as in references to its images; `docker.io` for Docker Hub"
    )
    username: Username
    password: Password = Field(description="Password or token; stored encrypted, never shown")


class RegistryCredentialsView(BaseModel):
    """Credentials of a registry, without the password."""

    registry: str
    username: str
    set_by: str | None = Field(None, description="Name of the user or key")
    set_at: datetime


def login_json(login: RegistryLogin) -> dict[str, object]:
    """Return `RegistryCredentialsView`."""
    by = {} if login.set_by is None else {"set_by": login.set_by["name"]}
    return {"registry": login.registry, "username": login.username, **by, "set_at": wire_time(login.set_at)}
