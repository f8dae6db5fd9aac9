"""Environment variables of the CLI: data folder, images and credentials."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wrenn.base.errors import InvalidRequest

if TYPE_CHECKING:
    from wrenn.sdk.profiles import Profile

DEFAULT_DATA_DIR: Final = Path("/var/lib/wrenn")
_OWN: Final = "WRENN_"


def data_dir(given: Path | None = None) -> Path:
    """Return the data folder: `given`, otherwise `WRENN_DATA_DIR`, otherwise the default. Always absolute."""
    return Path(given or os.environ.get("WRENN_DATA_DIR") or DEFAULT_DATA_DIR).absolute()


def images_dir(place: Path) -> Path:
    """Return the folder with kernel and templates of the installation in `place`: `WRENN_IMAGES_DIR`, otherwise `place`."""
    chosen = os.environ.get("WRENN_IMAGES_DIR")
    return Path(chosen).absolute() if chosen else place


def use_credentials() -> None:
    """Make URL and key available to the SDK: from the environment, otherwise the profile, otherwise the data folder's `env`.

    The key in `env` is only sent to the platform of `env`, and is not used instead of an explicitly selected
    profile.
    """
    from wrenn.sdk.settings import chosen_base_url, load_profile

    if os.environ.get("WRENN_API_KEY") or os.environ.get("WRENN_PROFILE") or load_profile() is not None:
        return
    found = read_env(data_dir() / "env")
    if os.environ.get("WRENN_BASE_URL") and chosen_base_url() != found.get("WRENN_BASE_URL"):
        return
    for name, value in found.items():
        if name.startswith(_OWN):
            os.environ.setdefault(name, value)


def use_profile(name: str, *, may_be_new: bool) -> None:
    """Select the profile for this program and the SDK. It takes precedence over the environment, credentials included.

    Raises:
        NotFound: there is no such profile, and the command does not make it (`may_be_new`).
        InvalidRequestError: not a valid name for a profile.
    """
    from wrenn.base.errors import NotFound
    from wrenn.sdk.settings import load_profile

    os.environ["WRENN_PROFILE"] = name
    if may_be_new:
        return
    if load_profile() is None:
        raise NotFound(f"There is no profile {name}: run `wrenn login --profile {name}`.")
    for variable in ("WRENN_API_KEY", "WRENN_BASE_URL"):
        os.environ.pop(variable, None)


def platform_url(given: str | None, profile: Profile | None) -> str:
    """Return the URL of the platform to call without its credentials: `given`, `WRENN_BASE_URL`, the profile's, or this machine's.

    Raises:
        InvalidRequestError: it is malformed.
    """
    from wrenn.sdk.settings import account_settings, chosen_base_url

    if given:
        return account_settings(given, request_timeout_s=60).base_url
    if profile is not None and not os.environ.get("WRENN_BASE_URL"):
        return profile.base_url
    return chosen_base_url()


def read_env(path: Path) -> dict[str, str]:
    """Read the settings in a data folder's `env`, those for clients of e2b too; empty if it is missing or not readable."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if line.startswith((_OWN, "E2B_")) and "=" in line)
    return {name: value for name, _, value in pairs}


def public_url() -> str | None:
    """Return `WRENN_PUBLIC_URL`, where users reach the platform, if it is not the address on which it listens."""
    return os.environ.get("WRENN_PUBLIC_URL") or None


def external_database_url() -> str | None:
    """Return `DATABASE_URL`, which is set if the operator runs their own PostgreSQL."""
    return os.environ.get("DATABASE_URL") or None


def up_timeout_s() -> float:
    """Return `WRENN_UP_TIMEOUT_S`, how long `wrenn up` waits until the programs that it started respond.

    Raises:
        InvalidRequest: it is no positive number.
    """
    text = os.environ.get("WRENN_UP_TIMEOUT_S") or "60"
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequest(f"WRENN_UP_TIMEOUT_S is {text!r}: it must be a number of seconds above 0.")
    return seconds


def given_envd() -> Path | None:
    """Return `WRENN_ENVD`, the path of the guest agent's program if it is neither in the package nor in the checkout."""
    text = os.environ.get("WRENN_ENVD")
    return Path(text) if text else None
