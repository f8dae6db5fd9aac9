"""Generated files are what their generators would write now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.repo.source import ROOT, files

_GENERATORS = [
    path for path in files(".py") if path.parent == ROOT / "tools" and '"--check"' in path.read_text()
]


@pytest.mark.parametrize("generator", _GENERATORS, ids=lambda path: path.stem)
def test_generated_files_are_up_to_date(generator: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(generator), "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
