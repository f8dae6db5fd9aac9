"""Where the platform is and who calls: from arguments, else from `WRENN_BASE_URL` and `WRENN_API_KEY`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from wrenn.base.secrets import Secret
from wrenn.sdk.errors import AuthenticationError, InvalidRequestError

DEFAULT_BASE_URL: Final = "http://127.0.0.1:8000"
DEFAULT_REQUEST_TIMEOUT_S: Final = 60.0
"""Longest a call may take with all its repetitions. A template's very first create boots a machine: some seconds."""


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What a client needs to know. `base_url` has no slash at its end."""

    api_key: Secret
    base_url: str
    request_timeout_s: float

    @property
    def is_local(self) -> bool:
        """The platform is on this machine."""
        host = urlsplit(self.base_url).hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")

    @property
    def domain(self) -> str:
        """Below which name the platform has the ports of sandboxes, unless it says another one."""
        parts = urlsplit(self.base_url)
        name = "localhost" if self.is_local else parts.hostname or ""
        return name if parts.port is None else f"{name}:{parts.port}"


def client_settings(
    *,
    api_key: str | None = None,
    base_url: str | None = None,
    request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
) -> ClientSettings:
    """Settings from the arguments, completed from the environment.

    Raises:
        AuthenticationError: there is no API key.
        InvalidRequestError: the base URL, the key or the time limit cannot be right.
    """
    key = (api_key or os.environ.get("WRENN_API_KEY", "")).strip()
    if not key:
        raise AuthenticationError("No API key: pass api_key=… or set WRENN_API_KEY.")
    if not (key.isascii() and key.isprintable()):
        raise InvalidRequestError("The API key has characters that no key has.")
    if not request_timeout_s > 0:
        raise InvalidRequestError(f"request_timeout_s must be above 0, not {request_timeout_s}.")
    url = base_url or os.environ.get("WRENN_BASE_URL") or DEFAULT_BASE_URL
    return ClientSettings(Secret(key), _checked(url), request_timeout_s)


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits, parts = False, None
    if parts is None or not fits or parts.username or parts.query or parts.fragment:
        raise InvalidRequestError("The base URL must look like http://127.0.0.1:8000 or https://host/path.")
    return url.rstrip("/")
