"""The CLI's environment: where the data folder is, and how the platform is reached."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

DEFAULT_DATA_DIR: Final = Path("/var/lib/wrenn")


def data_dir(given: Path | None = None) -> Path:
    """The data folder: as given, else `WRENN_DATA_DIR`, else the default. Always absolute."""
    return Path(given or os.environ.get("WRENN_DATA_DIR") or DEFAULT_DATA_DIR).absolute()


def images_dir(place: Path) -> Path:
    """The folder with kernel and templates of the installation in `place`: `WRENN_IMAGES_DIR`, else the same."""
    chosen = os.environ.get("WRENN_IMAGES_DIR")
    return Path(chosen).absolute() if chosen else place


def use_credentials() -> None:
    """Let the SDK find URL and key: in the environment, else the profile, else the data folder's `env`, where readable.

    The key in `env` goes to the platform of `env` only, and not in place of a profile that was asked for.
    """
    from wrenn.sdk.settings import chosen_base_url, load_profile

    if os.environ.get("WRENN_API_KEY") or os.environ.get("WRENN_PROFILE") or load_profile() is not None:
        return
    found = read_env(data_dir() / "env")
    if os.environ.get("WRENN_BASE_URL") and chosen_base_url() != found.get("WRENN_BASE_URL"):
        return
    for name, value in found.items():
        os.environ.setdefault(name, value)


def use_profile(name: str) -> None:
    """Have this and the SDK use another profile than `WRENN_PROFILE` says."""
    os.environ["WRENN_PROFILE"] = name


def read_env(path: Path) -> dict[str, str]:
    """The `WRENN_…` settings in a data folder's `env`; empty when there is none or it may not be read."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if line.startswith("WRENN_") and "=" in line)
    return {name: value for name, _, value in pairs}


def external_database_url() -> str | None:
    """`DATABASE_URL`, when the operator brings a PostgreSQL of their own."""
    return os.environ.get("DATABASE_URL") or None


def given_envd() -> Path | None:
    """`WRENN_ENVD`: the guest agent's program, when it is not where the package or the checkout has it."""
    text = os.environ.get("WRENN_ENVD")
    return Path(text) if text else None
