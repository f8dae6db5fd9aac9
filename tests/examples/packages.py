"""The packages that the examples use, in an environment of their own: they need other versions of some that we use too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
LOCK: Final = ROOT / "examples/requirements.lock"
FOLDER: Final = ROOT / "build/examples"
PYTHON: Final = FOLDER / "bin/python"
_INSTALL_TIMEOUT_S: Final = 300


def install() -> None:
    """Install exactly the packages of the lock, each pinned by its digest, unless they are there."""
    done = FOLDER / "installed"
    if done.exists() and done.read_text() == LOCK.read_text():
        return
    uv = Path(sys.executable).parent / "uv"
    for arguments in (
        ["venv", "--quiet", "--clear", "--python", sys.executable, FOLDER],
        ["pip", "sync", "--quiet", "--require-hashes", "--python", PYTHON, LOCK],
    ):
        subprocess.run([uv, *arguments], check=True, timeout=_INSTALL_TIMEOUT_S)
    done.write_text(LOCK.read_text())


if __name__ == "__main__":
    install()
