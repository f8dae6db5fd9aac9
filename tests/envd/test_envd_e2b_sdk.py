"""The unmodified public SDK, in its debug mode: it speaks to a bare guest agent on port 49983."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import e2b
import pytest
from e2b.sandbox.filesystem.filesystem import WriteEntry
from guest_kit import Envd

pytestmark = [
    pytest.mark.usefixtures("sdk_envd"),
    pytest.mark.filterwarnings("ignore"),  # the SDK's own
    pytest.mark.skipif(os.geteuid() != 0, reason="the SDK names the user root here"),
]


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> e2b.Sandbox:
    monkeypatch.setenv("E2B_DEBUG", "true")
    return e2b.Sandbox.create()


def test_a_command_runs(sandbox: e2b.Sandbox) -> None:
    result = sandbox.commands.run("echo out; echo err >&2", user="root")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)


def test_a_failing_command_raises(sandbox: e2b.Sandbox) -> None:
    with pytest.raises(e2b.CommandExitException) as caught:
        sandbox.commands.run("exit 3", user="root")
    assert caught.value.exit_code == 3


def test_a_timeout_raises_and_kills(sandbox: e2b.Sandbox, sdk_envd: Envd) -> None:
    with pytest.raises(e2b.TimeoutException):
        sandbox.commands.run("sleep 30", user="root", timeout=1)
    deadline = time.monotonic() + 5
    while sdk_envd.pids():  # client and agent count the same second each
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_background_command_is_followed_found_and_killed(sandbox: e2b.Sandbox) -> None:
    handle = sandbox.commands.run("echo begun; sleep 60", background=True, user="root")
    assert handle.pid in [p.pid for p in sandbox.commands.list()]
    again = sandbox.commands.connect(handle.pid)
    assert again.pid == handle.pid
    assert handle.kill()
    with pytest.raises(e2b.CommandExitException):
        handle.wait()
    assert not sandbox.commands.kill(handle.pid)
    assert sandbox.commands.list() == []


def test_input_reaches_a_command(sandbox: e2b.Sandbox) -> None:
    handle = sandbox.commands.run("cat", background=True, stdin=True, user="root")
    sandbox.commands.send_stdin(handle.pid, "hello")
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "hello"


def test_a_terminal_speaks(sandbox: e2b.Sandbox) -> None:
    seen: list[bytes] = []
    handle = sandbox.pty.create(e2b.PtySize(rows=24, cols=80), user="root")
    sandbox.pty.send_stdin(handle.pid, b"echo $((20+22)); exit\n")
    handle.wait(on_pty=seen.append)
    assert b"42" in b"".join(seen)


def test_files_are_written_read_listed_moved_and_removed(sandbox: e2b.Sandbox, place: Path) -> None:
    root = str(place)
    files = sandbox.files
    files.write(f"{root}/a/b.txt", "text", user="root")
    files.write(f"{root}/c.bin", b"\xff\x00", user="root")
    assert files.read(f"{root}/a/b.txt", user="root") == "text"
    assert bytes(files.read(f"{root}/c.bin", format="bytes", user="root")) == b"\xff\x00"
    assert [e.name for e in files.list(root, user="root")] == ["a", "c.bin"]
    assert files.exists(f"{root}/a", user="root")
    assert not files.exists(f"{root}/none", user="root")
    assert files.make_dir(f"{root}/d", user="root")
    assert not files.make_dir(f"{root}/d", user="root")
    assert files.rename(f"{root}/c.bin", f"{root}/d/e.bin", user="root").path == f"{root}/d/e.bin"
    files.remove(f"{root}/d", user="root")
    with pytest.raises(e2b.NotFoundException):
        files.read(f"{root}/d/e.bin", user="root")
    info = files.get_info(f"{root}/a/b.txt", user="root")
    assert (info.size, info.permissions) == (4, "-rw-r--r--")


def test_many_files_go_in_one_call(sandbox: e2b.Sandbox, place: Path) -> None:
    entries = [WriteEntry(path=f"{place}/n/{n}", data=str(n)) for n in range(10)]
    assert len(sandbox.files.write_files(entries, user="root")) == 10
    assert (place / "n/7").read_text() == "7"


def test_a_directory_is_watched(sandbox: e2b.Sandbox, place: Path) -> None:
    handle = sandbox.files.watch_dir(str(place), recursive=True, user="root")
    sandbox.files.write(f"{place}/f", "x", user="root")
    kinds = [e.type for e in handle.get_new_events()]
    assert kinds == [
        e2b.FilesystemEventType.CREATE,
        e2b.FilesystemEventType.CHMOD,
        e2b.FilesystemEventType.WRITE,
    ]
    handle.stop()


async def test_the_async_sdk_streams_events_and_output(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setenv("E2B_DEBUG", "true")
    sandbox = await e2b.AsyncSandbox.create()
    seen: asyncio.Queue[object] = asyncio.Queue()
    handle = await sandbox.files.watch_dir(str(place), on_event=seen.put_nowait, user="root")
    await sandbox.files.write(f"{place}/f", "x", user="root")
    async with asyncio.timeout(5):
        for _ in range(3):
            await seen.get()
    await handle.stop()
    results = await asyncio.gather(*(sandbox.commands.run(f"echo {n}", user="root") for n in range(10)))
    assert [r.stdout for r in results] == [f"{n}\n" for n in range(10)]


def test_a_warm_start_is_quick(sdk_envd: Envd) -> None:
    durations: list[float] = []
    for _ in range(30):
        began = time.perf_counter()
        sdk_envd.run("/bin/true")
        durations.append(time.perf_counter() - began)
    # 3 ms is the promise; the client in this test and a busy machine have their share.
    assert sorted(durations)[10] < 0.01
