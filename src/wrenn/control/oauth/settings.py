"""Settings of sign-in providers, from the environment. Documented in docs/reference/settings.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from wrenn.base.errors import InvalidRequest
from wrenn.base.secrets import Secret

GITHUB: Final = "github"
_OIDC: Final = re.compile(r"WRENN_OIDC_([A-Z][A-Z0-9]{0,31})_DISCOVERY_URL")
WELL_KNOWN: Final = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True)
class ClientKey:
    """Client id and secret under which a provider knows the platform."""

    client_id: str
    client_secret: Secret


@dataclass(frozen=True, slots=True)
class GithubSettings:
    """Settings for GitHub, or for a GitHub Enterprise server."""

    key: ClientKey
    url: str
    api_url: str


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """Settings for a provider that speaks OpenID Connect."""

    name: str
    key: ClientKey
    discovery_url: str
    scopes: str

    @property
    def issuer(self) -> str:
        """The issuer that its tokens must name."""
        return self.discovery_url.removesuffix(WELL_KNOWN)


@dataclass(frozen=True, slots=True)
class OAuthSettings:
    """The settings of all providers.

    Attributes:
        public_url: where a provider sends people back to.
        redirect_url: where people go on when they are signed in: the dashboard.
    """

    github: GithubSettings | None
    oidc: tuple[OidcSettings, ...]
    public_url: str
    redirect_url: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], public_url: str | None) -> Self:
        """Read `OAUTH_*` and `WRENN_OIDC_*`.

        Raises:
            InvalidRequest: a value that cannot be used, or one that is missing beside another.
        """
        github = _github(environment)
        oidc = tuple(
            _oidc(environment, match[1]) for name in sorted(environment) if (match := _OIDC.fullmatch(name))
        )
        if (github or oidc) and not public_url:
            raise InvalidRequest(
                "WRENN_PUBLIC_URL must be set where there are sign-in providers: they send people back to it."
            )
        redirect_url = _url(environment, "OAUTH_REDIRECT_URL", public_url or "")
        return cls(github, oidc, public_url or "", redirect_url)


def _github(environment: Mapping[str, str]) -> GithubSettings | None:
    if not environment.get("OAUTH_GITHUB_CLIENT_ID"):
        return None
    return GithubSettings(
        key=_key(environment, "OAUTH_GITHUB"),
        url=_provider_url(environment, "OAUTH_GITHUB_URL", "https://github.com"),
        api_url=_provider_url(environment, "OAUTH_GITHUB_API_URL", "https://api.github.com"),
    )


def _oidc(environment: Mapping[str, str], name: str) -> OidcSettings:
    if name.lower() == GITHUB:
        raise InvalidRequest(f"WRENN_OIDC_{name}_DISCOVERY_URL: choose another name, this is GitHub's own.")
    setting = f"WRENN_OIDC_{name}_DISCOVERY_URL"
    url = _provider_url(environment, setting, "")
    if not url.endswith(WELL_KNOWN):
        raise InvalidRequest(f"{setting} must end with {WELL_KNOWN}.")
    scopes = environment.get(f"WRENN_OIDC_{name}_SCOPES") or "openid email profile"
    return OidcSettings(name.lower(), _key(environment, f"WRENN_OIDC_{name}"), url, scopes)


def _key(environment: Mapping[str, str], prefix: str) -> ClientKey:
    client_id = environment.get(f"{prefix}_CLIENT_ID")
    client_secret = environment.get(f"{prefix}_CLIENT_SECRET")
    if not client_id or not client_secret:
        raise InvalidRequest(f"{prefix}_CLIENT_ID and {prefix}_CLIENT_SECRET must both be set.")
    return ClientKey(client_id, Secret(client_secret))


def _url(environment: Mapping[str, str], name: str, default: str) -> str:
    text = environment.get(name) or default
    if not text:
        return ""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InvalidRequest(f"{name} must look like https://host/path.")
    return text.rstrip("/")


def _provider_url(environment: Mapping[str, str], name: str, default: str) -> str:
    """Read the URL of a provider, which must be https unless it is on this machine."""
    url = _url(environment, name, default)
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "https" and host != "localhost" and not host.startswith("127."):
        raise InvalidRequest(f"{name} must begin with https://.")
    return url
