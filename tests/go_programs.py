"""Servers for tests that are built from their Go modules, once a checkout and version, into `build`."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BUILD_TIMEOUT_S: Final = 1800.0


@dataclass(frozen=True)
class GoProgram:
    """A program of a Go module, pinned by its version."""

    package: str
    version: str

    @property
    def path(self) -> Path:
        """Where the program is, once it is built."""
        name = self.package.rpartition("/")[2]
        return Path(__file__).parent.parent / "build" / f"{name}-{self.version}" / name

    def build(self) -> bool:
        """Build the program, unless this checkout has it; False: there is no Go."""
        if self.path.exists():
            return True
        if shutil.which("go") is None:
            return False
        module = f"{self.package}@{self.version}"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        built = subprocess.run(
            ["go", "install", module],
            env={**os.environ, "GOBIN": str(self.path.parent), "GOFLAGS": "-mod=mod"},
            cwd=self.path.parent,
            capture_output=True,
            text=True,
            timeout=_BUILD_TIMEOUT_S,
            check=False,
        )
        assert built.returncode == 0, f"{module} cannot be built:\n{built.stderr[-2000:]}"
        return True
