"""Environment variables: those of the sandbox, and those of one run of code.

A kernel may have been started before the sandbox existed, in the snapshot that sandboxes are made from, so it is told the variables
of the sandbox with each run. It applies them before the code runs, and takes those of the run back afterwards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SANDBOX_KEY = "sandbox_variables"
CALL_KEY = "call_variables"
"""Names in the metadata of a kernel's `execute_request`."""

_FILE = Path("/run/wrenn/environment.json")
"""The guest agent writes it whenever the sandbox gets its variables; its owner is the default user."""
_FILE_LIMIT_B = 1 << 20


def of_sandbox() -> dict[str, str]:
    """Return the variables of the sandbox; none if the guest agent has written no file."""
    path = Path(os.environ.get("CODE_INTERPRETER_VARIABLES", _FILE))
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_FILE_LIMIT_B))
    except (OSError, ValueError):
        return {}
    return checked(found) if isinstance(found, dict) else {}


def checked(given: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of a mapping that the kernel can have: a name with `=`, or a NUL character anywhere, is left out."""
    return {
        name: value
        for name, value in given.items()
        if isinstance(value, str) and name and not {"=", "\0"} & set(name) and "\0" not in value
    }


class Applied:
    """Applies variables to an environment, which may also be changed by the code that runs."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._environment = environment
        self._sandbox: dict[str, str] = {}

    @contextmanager
    def during(self, metadata: Mapping[str, Any]) -> Iterator[None]:
        """Apply the variables of the sandbox to stay, and those of the run for the duration of the block."""
        sandbox = metadata.get(SANDBOX_KEY)
        if isinstance(sandbox, dict):
            self._apply_sandbox(checked(sandbox))
        call = metadata.get(CALL_KEY)
        of_call = checked(call) if isinstance(call, dict) else {}
        former = {name: self._environment.get(name) for name in of_call}
        self._environment.update(of_call)
        try:
            yield
        finally:
            for name, value in former.items():
                if value is None:
                    self._environment.pop(name, None)
                else:
                    self._environment[name] = value

    def _apply_sandbox(self, wanted: Mapping[str, str]) -> None:
        for name in self._sandbox.keys() - wanted.keys():
            self._environment.pop(name, None)
        for name, value in wanted.items():
            # What the code itself has set stays, as long as the sandbox's value is the same.
            if self._sandbox.get(name) != value:
                self._environment[name] = value
        self._sandbox = dict(wanted)
