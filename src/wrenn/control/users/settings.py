"""Settings of accounts, from the environment. Documented in docs/reference/settings.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final, Self
from urllib.parse import urlsplit

from wrenn.base.errors import InvalidRequest
from wrenn.base.secrets import Secret
from wrenn.control.auth import SECRET_MIN_CHARACTERS
from wrenn.control.http.browsers import Network

_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """Settings of accounts and sessions.

    Attributes:
        signup_open: anybody may make an account.
        jwt_secret: signs tokens, the same on all replicas; None: the one in the data folder.
        public_url: where people reach the platform, without a slash at its end.
        trusted_proxies: whose X-Forwarded-For and -Proto are believed.
        session_life_s: a login lasts so long, however much it is used.
        teams_per_user: so many teams a user may own; None: no limit.
    """

    signup_open: bool
    jwt_secret: Secret | None
    public_url: str | None
    trusted_proxies: tuple[Network, ...]
    session_life_s: int
    teams_per_user: int | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read `WRENN_*`.

        Raises:
            InvalidRequest: a value that cannot be used; the message names the setting.
        """
        signup = environment.get("WRENN_SIGNUP") or "open"
        if signup not in ("open", "closed"):
            raise InvalidRequest(f"WRENN_SIGNUP must be open or closed, not {signup!r}.")
        return cls(
            signup_open=signup == "open",
            jwt_secret=_secret(environment),
            public_url=_public_url(environment),
            trusted_proxies=_networks(environment),
            session_life_s=_days(environment) * _DAY_S,
            teams_per_user=_teams_per_user(environment),
        )


def _secret(environment: Mapping[str, str]) -> Secret | None:
    text = environment.get("WRENN_JWT_SECRET", "")
    if not text:
        return None
    if len(text) < SECRET_MIN_CHARACTERS:
        raise InvalidRequest(f"WRENN_JWT_SECRET must have at least {SECRET_MIN_CHARACTERS} characters.")
    return Secret(text)


def _public_url(environment: Mapping[str, str]) -> str | None:
    text = environment.get("WRENN_PUBLIC_URL", "")
    if not text:
        return None
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits, parts = False, None
    if parts is None or not fits or parts.username or parts.query or parts.fragment:
        raise InvalidRequest("WRENN_PUBLIC_URL must look like https://host or https://host/path.")
    return text.rstrip("/")


def _networks(environment: Mapping[str, str]) -> tuple[Network, ...]:
    texts = [text.strip() for text in environment.get("WRENN_TRUSTED_PROXIES", "").split(",")]
    try:
        return tuple(ip_network(text) for text in texts if text)
    except ValueError as error:
        raise InvalidRequest(
            f"WRENN_TRUSTED_PROXIES must be addresses or networks with commas between: {error}."
        ) from error


def _teams_per_user(environment: Mapping[str, str]) -> int | None:
    text = environment.get("WRENN_TEAMS_PER_USER") or "20"
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise InvalidRequest(f"WRENN_TEAMS_PER_USER must be a whole number, or 0 for no limit, not {text!r}.")
    return int(text) or None


def _days(environment: Mapping[str, str]) -> int:
    text = environment.get("WRENN_SESSION_DAYS") or "30"
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 3650:
        raise InvalidRequest(f"WRENN_SESSION_DAYS must be a whole number from 1 to 3650, not {text!r}.")
    return int(text)
