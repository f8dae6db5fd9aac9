"""`wrenn down` without a platform: nothing to do, and sandboxes that cannot be paused."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wrenn.cli.up.daemons import record, running
from wrenn.cli.up.layout import Layout
from wrenn.cli.up.progress import Progress
from wrenn.cli.up.services import SUPERVISOR
from wrenn.cli.up.take_down import TakenDown, take_down
from wrenn.linux.process import ProcessRef


def down(data_dir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wrenn.cli.main", "down", "--data-dir", str(data_dir)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


async def test_where_nothing_runs_nothing_is_done(tmp_path: Path) -> None:
    assert await take_down(Layout(tmp_path), Progress(), purge=False) == TakenDown()
    assert list(tmp_path.iterdir()) == []


async def test_sandboxes_that_cannot_be_paused_are_told_and_hold_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path)
    layout.make()
    pid = os.posix_spawn(
        sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"], os.environ, setsid=True
    )
    supervisor = ProcessRef.of(pid)
    assert supervisor is not None
    record(layout.pid_file(SUPERVISOR), supervisor)
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")
    ended = await asyncio.to_thread(down, tmp_path)
    assert ended.returncode == 1
    assert "database" in ended.stderr
    assert "the next `wrenn up` takes it over" in ended.stderr
    assert ended.stdout == ""
    assert running(layout, SUPERVISOR) is None
