"""What `wrenn login` keeps for later: one profile a platform and user, in a file of TOML.

The SDK reads it where neither arguments nor the environment say who calls. Only the `wrenn` command writes it.
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
    """A platform and who calls it.

    Attributes:
        base_url: the platform.
        email: the user who logged in.
        api_key: of the user's team, made for this machine.
        key_id: its id, to revoke it.
        refresh_token: of the user's session, for what keys may not.
    """

    base_url: str
    email: str
    api_key: Secret
    key_id: str
    refresh_token: Secret


def read_profiles(path: Path) -> dict[str, Profile]:
    """All profiles by name; none where the file is missing or may not be read.

    Raises:
        InvalidRequestError: the file cannot be understood.
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
