"""`make test` runs each file of tests in one of its parts."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter

from tests.repo.source import ROOT


def commands_of(target: str) -> str:
    """What make would run."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", target],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_each_file_is_in_one_part():
    parts = re.search(r"^PARTS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert parts is not None
    found = Counter[str]()
    for part in parts[1].split():
        for place in re.findall(r"\s(tests/\S+)", commands_of(f"test-part-{part}")):
            path = ROOT / place
            files = path.rglob("test_*.py") if path.is_dir() else [path]
            found.update(str(file.relative_to(ROOT)) for file in files)
    everything = {str(file.relative_to(ROOT)) for file in (ROOT / "tests").rglob("test_*.py")}
    assert everything - found.keys() == set()
    assert {name: times for name, times in found.items() if times > 1} == {}
