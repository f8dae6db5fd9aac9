"""`wrenn down` without a platform: nothing to do, and sandboxes that cannot be paused."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wrenn.agent.data_folder import data_folder_held
from wrenn.base.errors import InvalidState
from wrenn.cli.up.daemons import record, running
from wrenn.cli.up.layout import Layout
from wrenn.cli.up.progress import Progress
from wrenn.cli.up.services import AGENT, CONTROL, SUPERVISOR
from wrenn.cli.up.take_down import TakenDown, stop_programs, take_down
from wrenn.linux.process import ProcessRef, kill_and_wait


def down(data_dir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wrenn.cli.main", "down", "--data-dir", str(data_dir)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


async def test_where_nothing_runs_nothing_is_done(tmp_path: Path) -> None:
    assert await take_down(Layout(tmp_path), Progress(), purge=False) == TakenDown()
    assert list(tmp_path.iterdir()) == []


async def test_sandboxes_that_cannot_be_paused_are_reported_and_delay_nothing(
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
    assert "the next `wrenn up` adopts them" in ended.stderr
    assert ended.stdout == ""
    assert running(layout, SUPERVISOR) is None


def start_like_a_program(
    data_dir: Path, fake: Path, *arguments: str, before: tuple[str, ...] = ()
) -> ProcessRef:
    """A process with the command line and the environment of a program of the platform, which sleeps.

    `before`: a command that runs this one, as another user.
    """
    package = fake / "wrenn" / "cli"
    package.mkdir(parents=True, exist_ok=True)
    for folder in (fake / "wrenn", package):
        (folder / "__init__.py").touch()
    (package / "main.py").write_text(
        "import sys, time; sys.stdout.write('.'); sys.stdout.flush(); time.sleep(60)"
    )
    reader, writer = os.pipe()
    command = [*before, sys.executable, "-m", "wrenn.cli.main", *arguments]
    pid = os.posix_spawnp(
        command[0],
        command,
        {**os.environ, "PYTHONPATH": str(fake), "WRENN_DATA_DIR": str(data_dir)},
        file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)],
        setsid=True,
    )
    os.close(writer)
    assert os.read(reader, 1) == b"."
    os.close(reader)
    process = ProcessRef.of(pid)
    assert process is not None
    return process


async def test_programs_that_lost_their_pid_files_are_found_and_ended(tmp_path: Path) -> None:
    data_dir, other = tmp_path / "data", tmp_path / "other"
    for folder in (data_dir, other):
        folder.mkdir()
    agent = start_like_a_program(data_dir, tmp_path / "fake", "agent")
    chief = start_like_a_program(
        data_dir, tmp_path / "fake", "supervise", "--data-dir", str(data_dir), "--listen", "127.0.0.1:1"
    )
    foreign = start_like_a_program(other, tmp_path / "fake", "agent")
    try:
        assert running(Layout(data_dir), AGENT) == agent
        assert running(Layout(data_dir), SUPERVISOR) == chief
        assert running(Layout(data_dir), CONTROL) is None
        await stop_programs(Layout(data_dir))
        assert not agent.is_alive()
        assert not chief.is_alive()
        assert foreign.is_alive(), "it belongs to another data folder"
    finally:
        for process in (agent, chief, foreign):
            await kill_and_wait(process, timeout_s=10)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
async def test_a_program_of_another_user_is_not_taken_for_ours(tmp_path: Path) -> None:
    reads = "+dac_read_search"  # where the interpreter is below a closed folder
    decoy = start_like_a_program(
        tmp_path,
        tmp_path / "fake",
        "agent",
        before=("setpriv", "--reuid", "65534", f"--inh-caps={reads}", f"--ambient-caps={reads}"),
    )
    try:
        assert running(Layout(tmp_path), AGENT) is None
    finally:
        await kill_and_wait(decoy, timeout_s=10)


async def test_a_folder_with_data_of_others_is_not_purged(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "mysql").mkdir()
    layout = Layout(tmp_path)
    with pytest.raises(InvalidState, match="not made by wrenn"):
        await take_down(layout, Progress(), purge=True)
    layout.make()
    with pytest.raises(InvalidState, match="not made by wrenn"):
        await take_down(layout, Progress(), purge=True)
    assert (tmp_path / "mysql").is_dir()


async def test_the_data_of_an_agent_that_a_service_manager_runs_is_not_purged(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    layout.make()
    with data_folder_held(layout.data_dir):
        with pytest.raises(InvalidState, match="systemctl disable --now wrenn-agent"):
            await take_down(layout, Progress(), purge=True)
        assert layout.marker.exists()
    await take_down(layout, Progress(), purge=True)
    assert not layout.data_dir.exists()


@pytest.mark.parametrize("former", [(), ("kernels", "templates"), ("run/up.lock", "pki")])
async def test_a_folder_of_its_own_is_purged(tmp_path: Path, former: tuple[str, ...]) -> None:
    for name in former:
        place = tmp_path / "data" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.suffix:
            place.touch()
        else:
            place.mkdir()
    layout = Layout(tmp_path / "data")
    layout.make()
    await take_down(layout, Progress(), purge=True)
    assert not layout.data_dir.exists()
