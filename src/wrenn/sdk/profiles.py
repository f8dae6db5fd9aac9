"""Profiles that `wrenn login` stores: one for each platform and user, in a TOML file.

The SDK reads it if neither arguments nor environment variables have credentials. Only the `wrenn` command
writes it.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrenn.base.secrets import Secret
from wrenn.sdk.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Profile:
    """A platform and the credentials for it.

    Attributes:
        base_url: URL of the platform.
        email: the user who logged in.
        api_key: an API key of the user's team, created for this machine.
        key_id: the id of the key, to revoke it.
        refresh_token: of the user's session, for what API keys cannot do.
    """

    base_url: str
    email: str
    api_key: Secret
    key_id: str
    refresh_token: Secret


def read_profiles(path: Path) -> dict[str, Profile]:
    """Read all profiles by name; empty if the file is missing or not readable.

    Raises:
        InvalidRequestError: the file is malformed.
    """
    try:
        said = tomllib.loads(path.read_text())
        return {name: _profile(fields) for name, fields in said.items()}
    except OSError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequestError(f"{path} cannot be understood: remove it and run `wrenn login`.") from error


def _profile(fields: Any) -> Profile:
    return Profile(
        base_url=str(fields["base_url"]),
        email=str(fields["email"]),
        api_key=Secret(str(fields["api_key"])),
        key_id=str(fields["key_id"]),
        refresh_token=Secret(str(fields["refresh_token"])),
    )
