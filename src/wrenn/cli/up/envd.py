"""Finds the guest agent's program: in the package, or in a checkout in which cargo has built it."""

from __future__ import annotations

import platform
from pathlib import Path

import wrenn
from wrenn.base.errors import NotFound
from wrenn.cli.settings import given_envd


def find_envd() -> Path:
    """Return the path of the static `envd` for this machine.

    Raises:
        NotFound: it has not been built.
    """
    package = Path(wrenn.__file__).parent
    target = package.parent.parent / "rust/target"
    machine = platform.machine()
    candidates = (
        given_envd(),
        package / "_bin" / "envd",
        target / f"{machine}-unknown-linux-gnu" / "release/envd",
        target / f"{machine}-unknown-linux-musl" / "release/envd",
    )
    for path in candidates:
        if path is not None and path.is_file():
            return path
    raise NotFound("The guest agent envd is not built: run `make setup` in the checkout.")
