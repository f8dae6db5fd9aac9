"""The releases of e2b's Python SDK that the tests use: the newest from the project's own requirements, and an older one.

`python -m tests.e2b.python_sdks` installs the older one, as `make test-tools` does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from tests.e2b.sdk_process import ROOT, SdkProcess

NEWEST: Final = version("e2b")
OLDER: Final = "2.45.1"
RELEASES: Final = (NEWEST, OLDER)
_INSTALL_TIMEOUT_S: Final = 600.0

Scenario = Callable[[], Any]
"""A function, or coroutine function, that uses the SDK as a user does; it fails by raising."""


def scenarios_in(module: ModuleType) -> list[Scenario]:
    """Return the public functions that a module defines, in their order."""
    return [
        value
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and value.__module__ == module.__name__
    ]


def folder_of(release: str) -> Path | None:
    """Return where a release is installed; None: in the environment of the tests."""
    return None if release == NEWEST else ROOT / "build" / f"e2b-{release}"


def install() -> None:
    """Install the older release with its dependencies, each pinned by its digest, unless it is there."""
    folder = folder_of(OLDER)
    assert folder is not None, "the older release is not the newest"
    done = folder / "installed"
    locked = ROOT / "tests" / "e2b" / f"requirements-{OLDER}.txt"
    if done.exists() and done.read_text() == locked.read_text():
        return
    subprocess.run(
        [
            Path(sys.executable).parent / "uv", "pip", "install", "--quiet", "--require-hashes", "--no-deps",
            "--python", sys.executable, "--target", folder, "--requirement", locked,
        ],
        check=True,
        timeout=_INSTALL_TIMEOUT_S,
    )  # fmt: skip
    done.write_text(locked.read_text())


class PythonSdk(SdkProcess):
    """A process that runs scenarios with one release of the Python SDK."""

    def __init__(self, release: str) -> None:
        self.release = release
        folder = folder_of(release)
        path = [str(ROOT)] if folder is None else [str(folder), str(ROOT)]
        super().__init__(
            f"e2b {release}",
            [sys.executable, "-m", "tests.e2b.worker"],
            {"PYTHONPATH": os.pathsep.join(path)},
        )

    async def run(self, scenario: Scenario, environment: Mapping[str, str] | None = None) -> None:
        """Run a scenario, with more variables in its environment if some are given; fails with its traceback if it fails."""
        await self.run_named(scenario.__module__, scenario.__name__, environment)


if __name__ == "__main__":
    install()
