"""A run of the tests comes to its end, however a test fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TEARDOWN = """
import threading
import pytest

@pytest.fixture
def held():
    yield
    threading.Event().wait()

def test_it(held):
    pass
"""
THREAD = """
import asyncio, threading

def test_it():
    threading.Thread(target=threading.Event().wait).start()
"""


@pytest.mark.parametrize("program", [TEARDOWN, THREAD], ids=["teardown", "thread"])
def test_a_teardown_that_hangs_is_reported_and_cut_off(tmp_path: Path, program: str) -> None:
    shutil.copy(Path(__file__).parent.parent / "conftest.py", tmp_path / "conftest.py")
    (tmp_path / "pytest.ini").write_text("[pytest]\nend_limit = 0.5\n")
    (tmp_path / "test_it.py").write_text(program)
    # No time limit of pytest-timeout: it has gone off before, in the test.
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    bare = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path, env=bare
    )
    assert ended.returncode == 1
    assert "Timeout (0:00:00.5" in ended.stderr
    assert "test_it.py" in ended.stderr or "threading.py" in ended.stderr
