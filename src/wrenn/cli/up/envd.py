"""Finds the guest agent's program: in the package, or in a checkout in which cargo has built it."""

from __future__ import annotations

from pathlib import Path

from wrenn.base.built_programs import find_built_program
from wrenn.base.errors import NotFound
from wrenn.cli.settings import given_envd


def find_envd() -> Path:
    """Return the path of the static `envd` for this machine.

    Raises:
        NotFound: it has not been built.
    """
    given = given_envd()
    found = given if given is not None and given.is_file() else find_built_program("envd")
    if found is not None:
        return found
    raise NotFound("The guest agent envd is not built: run `make setup` in the checkout.")
