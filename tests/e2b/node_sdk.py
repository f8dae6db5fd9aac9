"""The Node SDK of e2b, pinned by `tests/e2b/node/package-lock.json`; `python -m tests.e2b.node_sdk` installs it, as `make test-tools` does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

from tests.e2b.sdk_process import ROOT, SdkProcess

_FOLDER: Final = ROOT / "tests" / "e2b" / "node"
_MODULES: Final = _FOLDER / "node_modules"
_FUNCTION: Final = re.compile(r"^export async function (\w+)", re.MULTILINE)
_INSTALL_TIMEOUT_S: Final = 600.0


def scenarios_in(name: str) -> list[str]:
    """Return the names of the functions that a module of scenarios exports, in their order."""
    found = _FUNCTION.findall((_FOLDER / "scenarios" / f"{name}.mjs").read_text())
    assert found, f"{name} has no scenarios"
    return found


def install() -> None:
    """Install the SDK, unless it is there."""
    locked: Path = _FOLDER / "package-lock.json"
    done: Path = _MODULES / ".installed"
    if done.exists() and done.read_text() == locked.read_text():
        return
    command = ["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(command, check=True, cwd=_FOLDER, timeout=_INSTALL_TIMEOUT_S)
    done.write_text(locked.read_text())


class NodeSdk(SdkProcess):
    """A process that runs scenarios with the Node SDK."""

    def __init__(self) -> None:
        super().__init__("the Node SDK", ["node", str(_FOLDER / "worker.mjs")], {})


if __name__ == "__main__":
    install()
