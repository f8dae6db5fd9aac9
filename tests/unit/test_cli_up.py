"""The parts of `wrenn up`: addresses, private files, locks, pid files, and the loop that keeps a program running."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from wrenn.base.errors import Conflict, InternalError, InvalidRequest, NotFound
from wrenn.cli.settings import read_env, up_timeout_s
from wrenn.cli.up import database
from wrenn.cli.up.daemons import Daemon, end_of_log, record, running, stop
from wrenn.cli.up.layout import Layout, write_private
from wrenn.cli.up.options import Address, parse_listen
from wrenn.cli.up.services import SUPERVISOR, agent_address, services
from wrenn.cli.up.supervisor import keep_running
from wrenn.linux.process import ProcessRef, kill_and_wait


def spawn(*argv: str) -> ProcessRef:
    pid = os.posix_spawn(sys.executable, [sys.executable, *argv], os.environ, setsid=True)
    process = ProcessRef.of(pid)
    assert process is not None
    return process


SLEEP = ("-c", "import time; time.sleep(60)")


@pytest.mark.parametrize(
    ("text", "address", "url"),
    [
        (None, Address("127.0.0.1", 8000), "http://127.0.0.1:8000"),
        ("0.0.0.0:9000", Address("0.0.0.0", 9000), "http://127.0.0.1:9000"),
        ("[::1]:80", Address("::1", 80), "http://[::1]:80"),
        ("host.example:65535", Address("host.example", 65535), "http://host.example:65535"),
    ],
)
def test_an_address_is_read_and_has_a_url(text: str | None, address: Address, url: str) -> None:
    assert parse_listen(text) == address
    assert address.url == url
    assert parse_listen(str(address)) == address


@pytest.mark.parametrize("text", ["8000", ":8000", "host:", "host:0", "host:65536", "host:x", "host:²"])
def test_a_bad_address_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="HOST:PORT"):
        parse_listen(text)


@pytest.mark.parametrize("port", [1, 8000, 65535])
def test_the_agent_listens_on_loopback_beside_the_api(port: int) -> None:
    address = agent_address(Address("0.0.0.0", port))
    assert address.host == "127.0.0.1"
    assert 0 < address.port < 65536
    assert address.port != port


def test_no_setting_of_a_program_travels_in_its_arguments(tmp_path: Path) -> None:
    for daemon in services(tmp_path, parse_listen(None), "postgresql://user:secret@host/db"):
        assert "secret" not in " ".join(daemon.arguments)


def test_a_private_file_is_whole_and_only_its_owners(tmp_path: Path) -> None:
    target = tmp_path / "env"
    target.write_text("old")
    target.chmod(0o644)
    write_private(target, "WRENN_API_KEY=wrn_x\n")
    assert target.read_text() == "WRENN_API_KEY=wrn_x\n"
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [target]


def test_env_gives_only_our_settings(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("WRENN_API_KEY=a=b\nPATH=/evil\nexport WRENN_API_KEY\n")
    assert read_env(path) == {"WRENN_API_KEY": "a=b"}
    assert read_env(tmp_path / "missing") == {}


async def test_of_two_one_wins_and_the_other_waits(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make()
    said: list[str] = []
    order: list[str] = []
    waiting = asyncio.Event()

    def say(text: str) -> None:
        said.append(text)
        waiting.set()

    async def second() -> None:
        async with layout.locked(say):
            order.append("second")

    async with layout.locked(say):
        task = asyncio.create_task(second())
        async with asyncio.timeout(10):
            await waiting.wait()
        order.append("first")
    await task
    assert order == ["first", "second"]
    assert len(said) == 1


async def test_a_program_is_found_again_by_its_pid_file_until_it_ends(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make()
    process = spawn(*SLEEP)
    record(layout.pid_file("x"), process)
    assert running(layout, "x") == process
    assert await stop(process, timeout_s=10)
    assert running(layout, "x") is None
    assert await stop(process, timeout_s=10), "stopping twice is the same as once"


def test_a_pid_file_of_another_process_or_of_nonsense_means_not_running(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make()
    record(layout.pid_file("x"), ProcessRef(os.getpid(), 1))
    assert running(layout, "x") is None
    for text in ("", "[]", '{"pid": "x"}', "null"):
        layout.pid_file("x").write_text(text)
        assert running(layout, "x") is None


async def test_a_program_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); open('ready', 'w'); time.sleep(60)"
    process = spawn("-c", f"import os; os.chdir({str(tmp_path)!r}); {code}")
    async with asyncio.timeout(10):
        while not (tmp_path / "ready").exists():
            await asyncio.sleep(0.01)
    assert not await stop(process, timeout_s=0.2)
    assert not process.is_alive()


async def test_a_daemon_writes_its_log(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make()
    process = Daemon("version", ("--version",)).start(layout)
    async with asyncio.timeout(30):
        await process.wait_exit()
    assert end_of_log(layout.log("version")).startswith("wrenn ")


async def test_a_killed_program_runs_again_and_a_failed_start_is_tried_again() -> None:
    started: asyncio.Queue[ProcessRef] = asyncio.Queue()
    failures = iter([InternalError("the disk is full")])

    async def ensure() -> ProcessRef:
        for failure in failures:
            raise failure
        process = spawn(*SLEEP)
        started.put_nowait(process)
        return process

    task = asyncio.create_task(keep_running("sleeper", ensure))
    async with asyncio.timeout(20):
        first = await started.get()
        os.kill(first.pid, signal.SIGKILL)
        second = await started.get()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert second != first
    assert await stop(second, timeout_s=10)


async def test_a_foreground_start_that_is_refused_leaves_the_running_platform_alone(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make()
    chief = spawn(*SLEEP)
    command = [sys.executable, "-m", "wrenn.cli.main", "up"]
    record(layout.pid_file(SUPERVISOR), chief)
    write_private(layout.env, "WRENN_BASE_URL=http://127.0.0.1:8000\n")
    try:
        ended = await asyncio.to_thread(
            subprocess.run,
            [*command, "--foreground", "--listen", "127.0.0.1:9000", "--data-dir", str(tmp_path)],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert ended.returncode != 0
        assert "runs already on" in ended.stderr or "as root" in ended.stderr
        assert chief.is_alive()
    finally:
        await kill_and_wait(chief, timeout_s=10)


async def test_the_database_that_was_set_up_is_that_of_all_later_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path)
    with pytest.raises(NotFound, match="no platform"):
        await database.ensure(tmp_path)
    assert list(tmp_path.iterdir()) == [], "only `wrenn up` makes a database"
    monkeypatch.setenv("DATABASE_URL", "postgresql://one/wrenn")
    assert await database.set_up(layout) == "postgresql://one/wrenn"
    assert stat.S_IMODE(layout.database_url.stat().st_mode) == 0o600
    monkeypatch.delenv("DATABASE_URL")
    assert await database.set_up(layout) == await database.ensure(tmp_path) == "postgresql://one/wrenn"
    monkeypatch.setenv("DATABASE_URL", "postgresql://two/wrenn")
    with pytest.raises(Conflict, match="another one"):
        await database.set_up(layout)


async def test_a_platform_with_an_embedded_database_gets_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "postgres").mkdir()
    monkeypatch.setenv("DATABASE_URL", "postgresql://one/wrenn")
    with pytest.raises(Conflict, match="move the data"):
        await database.set_up(Layout(tmp_path))


def test_how_long_up_waits_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WRENN_UP_TIMEOUT_S", raising=False)
    assert up_timeout_s() == 60
    monkeypatch.setenv("WRENN_UP_TIMEOUT_S", "300")
    assert up_timeout_s() == 300
    for wrong in ("soon", "0", "-1", "nan", "inf"):
        monkeypatch.setenv("WRENN_UP_TIMEOUT_S", wrong)
        with pytest.raises(InvalidRequest, match="WRENN_UP_TIMEOUT_S"):
            up_timeout_s()
