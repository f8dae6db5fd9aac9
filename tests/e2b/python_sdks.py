"""The releases of e2b's Python SDK that the tests use: the newest from the project's own requirements, and an older one.

`python -m tests.e2b.python_sdks` installs the older one, as `make test-tools` does.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent.parent
NEWEST: Final = version("e2b")
OLDER: Final = "2.45.1"
RELEASES: Final = (NEWEST, OLDER)
_SCENARIO_TIMEOUT_S: Final = 60.0
_INSTALL_TIMEOUT_S: Final = 600.0
_ANSWER_LIMIT_B: Final = 1 << 20

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


class PythonSdk:
    """A process that runs scenarios with one release of the SDK, one at a time."""

    def __init__(self, release: str) -> None:
        self.release = release
        self.environment: dict[str, str] = {}
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, scenario: Scenario, environment: Mapping[str, str] | None = None) -> None:
        """Run a scenario, with more variables in its environment if some are given; fails with its traceback if it fails."""
        process = self._process or await self._start()
        assert process.stdin is not None, "its input is a pipe"
        assert process.stdout is not None, "its output is a pipe"
        request = {
            "module": scenario.__module__,
            "name": scenario.__name__,
            "environment": {**self.environment, **(environment or {})},
        }
        process.stdin.write(json.dumps(request).encode() + b"\n")
        try:
            async with asyncio.timeout(_SCENARIO_TIMEOUT_S):
                answer = await process.stdout.readline()
        except TimeoutError:
            await self.close()
            raise AssertionError(f"{scenario.__name__} did not end in {_SCENARIO_TIMEOUT_S:.0f} s") from None
        assert answer, "the process of the SDK ended"
        if error := json.loads(answer)["error"]:
            raise AssertionError(f"with e2b {self.release}:\n{error}")

    async def _start(self) -> asyncio.subprocess.Process:
        folder = folder_of(self.release)
        path = [str(ROOT)] if folder is None else [str(folder), str(ROOT)]
        own = {name: value for name, value in os.environ.items() if not name.startswith("E2B_")}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.e2b.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={**own, "PYTHONPATH": os.pathsep.join(path)},
            limit=_ANSWER_LIMIT_B,
        )
        return self._process

    async def close(self) -> None:
        """End the process."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._process = None


if __name__ == "__main__":
    install()
