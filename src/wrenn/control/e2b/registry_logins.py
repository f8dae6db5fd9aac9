"""Logins to registries that come with a build of e2b's template builder."""

from __future__ import annotations

from typing import Final

from wrenn.base.errors import InvalidRequest
from wrenn.base.secrets import Secret
from wrenn.control.e2b.errors import NotSupported
from wrenn.control.e2b.template_types import RegistryLogin
from wrenn.control.registries import ImageLogin

_GOOGLE_USER: Final = "_json_key"
"""User name with which the registries of Google take the key of a service account as password."""


def image_login(login: RegistryLogin) -> ImageLogin:
    """Return the user name and password.

    Raises:
        InvalidRequest: one is missing. NotSupported: the type of registry is not known here.
    """
    if login.type == "registry":
        if login.username is None or login.password is None:
            raise InvalidRequest("fromImageRegistry: username and password are required.")
        return ImageLogin(login.username, Secret(login.password.get_secret_value()))
    if login.type == "gcp":
        if login.service_account_json is None:
            raise InvalidRequest("fromImageRegistry: serviceAccountJson is required.")
        return ImageLogin(_GOOGLE_USER, Secret(login.service_account_json.get_secret_value()))
    # The registry of AWS wants a password that its API issues for some hours.
    raise NotSupported(
        f"fromImageRegistry: the type {login.type!r} is not supported on this platform, only registry and gcp."
    )
