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
TOLD_TO_END = """
import os, signal, time
from pathlib import Path
import pytest

@pytest.fixture(scope="session")
def server():
    yield
    Path("stopped").touch()

def test_it(server):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


@pytest.mark.parametrize("program", [TEARDOWN, THREAD], ids=["teardown", "thread"])
def test_a_teardown_that_hangs_is_reported_and_cut_off(tmp_path: Path, program: str) -> None:
    ended = run(tmp_path, program, end_limit_s=0.5)
    assert ended.returncode == 1
    assert "Timeout (0:00:00.5" in ended.stderr
    assert "test_it.py" in ended.stderr or "threading.py" in ended.stderr


def test_fixtures_are_closed_after_sigterm(tmp_path: Path) -> None:
    ended = run(tmp_path, TOLD_TO_END, end_limit_s=50)
    assert ended.returncode == pytest.ExitCode.INTERRUPTED, ended.stdout
    assert (tmp_path / "stopped").exists()


def run(folder: Path, program: str, *, end_limit_s: float) -> subprocess.CompletedProcess[str]:
    """Run pytest on this test."""
    shutil.copy(Path(__file__).parent.parent / "conftest.py", folder / "conftest.py")
    (folder / "pytest.ini").write_text(f"[pytest]\nend_limit = {end_limit_s}\n")
    (folder / "test_it.py").write_text(program)
    # No time limit of pytest-timeout: it has gone off before, in the test.
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    bare = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, cwd=folder, env=bare)
