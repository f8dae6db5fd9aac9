"""URL of the platform and credentials: from arguments, otherwise the environment, otherwise the profile of `wrenn login`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from wrenn.base.secrets import Secret
from wrenn.sdk.errors import AuthenticationError, InvalidRequestError
from wrenn.sdk.profiles import Profile, read_profiles

DEFAULT_BASE_URL: Final = "http://127.0.0.1:8000"
DEFAULT_REQUEST_TIMEOUT_S: Final = 60.0
"""Longest time for a call with all retries. The very first create of a template boots a machine, which takes
some seconds."""
DEFAULT_PROFILE: Final = "default"
_PROFILE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Session(Protocol):
    """The session of a user on a platform."""

    @property
    def base_url(self) -> str:
        """The URL of the platform."""
        ...

    def token(self) -> Secret:
        """Return a token that is valid now; it is asked for whenever connections are opened."""
        ...


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Settings of a client. `base_url` has no trailing slash; with `api_key` None, each call brings its own credentials.

    Attributes:
        admin: instead of an API key, the session of an admin of the platform: calls about builds are about the platform's then.
    """

    api_key: Secret | None
    base_url: str
    request_timeout_s: float
    admin: Session | None = None

    @property
    def credentials(self) -> dict[str, str]:
        """The authentication header; empty if each call brings its own credentials."""
        if self.admin is not None:
            return {"Authorization": f"Bearer {self.admin.token().reveal()}"}
        return {} if self.api_key is None else {"X-API-Key": self.api_key.reveal()}

    @property
    def is_local(self) -> bool:
        """Whether the platform is on this machine."""
        host = urlsplit(self.base_url).hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")

    @property
    def domain(self) -> str:
        """The domain below which sandboxes' ports have their host names, unless the platform reports another one."""
        parts = urlsplit(self.base_url)
        name = "localhost" if self.is_local else parts.hostname or ""
        return name if parts.port is None else f"{name}:{parts.port}"


def client_settings(
    *,
    api_key: str | None = None,
    base_url: str | None = None,
    request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
    admin: Session | None = None,
) -> ClientSettings:
    """Settings from the arguments, completed from `WRENN_API_KEY` and `WRENN_BASE_URL`, otherwise from the profile.

    A profile's key is sent only to the profile's platform. With `admin` nothing else is needed.

    Raises:
        AuthenticationError: there is no API key.
        InvalidRequestError: the base URL, the key or the timeout is malformed.
    """
    if admin is not None:
        return ClientSettings(None, _checked(admin.base_url), request_timeout_s, admin)
    key = (api_key or os.environ.get("WRENN_API_KEY", "")).strip()
    url = base_url or os.environ.get("WRENN_BASE_URL") or ""
    if not key:
        profile = load_profile()
        if profile is not None and (not url or _checked(url) == profile.base_url):
            key, url = profile.api_key.reveal(), profile.base_url
    if not key:
        raise AuthenticationError("No API key: run `wrenn login`, pass api_key=… or set WRENN_API_KEY.")
    if not (key.isascii() and key.isprintable()):
        raise InvalidRequestError("The API key has characters that no key has.")
    if not request_timeout_s > 0:
        raise InvalidRequestError(f"request_timeout_s must be above 0, not {request_timeout_s}.")
    return ClientSettings(Secret(key), _checked(url or DEFAULT_BASE_URL), request_timeout_s)


def account_settings(base_url: str, *, request_timeout_s: float) -> ClientSettings:
    """Settings for calls of a user, which have a token and no API key.

    Raises:
        InvalidRequestError: the base URL is malformed.
    """
    return ClientSettings(None, _checked(base_url), request_timeout_s)


def chosen_base_url() -> str:
    """Return `WRENN_BASE_URL`, or by default the platform of this machine."""
    return _checked(os.environ.get("WRENN_BASE_URL") or DEFAULT_BASE_URL)


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits, parts = False, None
    if parts is None or not fits or parts.username or parts.query or parts.fragment:
        raise InvalidRequestError("The base URL must look like http://127.0.0.1:8000 or https://host/path.")
    # Documentation of other clients and the paths of the API suggest `/v1` in the URL; all paths here begin
    # with it.
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def credentials_path() -> Path:
    """The file with all profiles: `$XDG_CONFIG_HOME/wrenn/credentials.toml`."""
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "wrenn" / "credentials.toml"


def profile_name(given: str | None = None) -> str:
    """Return the name of the profile to use: `given`, otherwise `WRENN_PROFILE`, otherwise `default`.

    Raises:
        InvalidRequestError: not a valid name for a profile.
    """
    name = given or os.environ.get("WRENN_PROFILE") or DEFAULT_PROFILE
    if _PROFILE_NAME.fullmatch(name) is None:
        raise InvalidRequestError("A profile's name has 1 to 64 letters, digits, '-' or '_'.")
    return name


def load_profile(name: str | None = None) -> Profile | None:
    """Load the profile to use; None if there is none with this name.

    Raises:
        InvalidRequestError: the file is malformed.
    """
    return read_profiles(credentials_path()).get(profile_name(name))
