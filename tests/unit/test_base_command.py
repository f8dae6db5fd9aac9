"""The command runner: nothing that it started outlives it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from wrenn.linux.command import CommandError, run

# A child that starts a grandchild, says its pid in a fifo, and waits for ever.
_WITH_GRANDCHILD = 'sleep 600 & echo "$!" > "$0"; wait'


async def test_the_output_is_returned() -> None:
    assert await run(["cat"], timeout_s=10, stdin=b"\xff\0bytes") == b"\xff\0bytes"


async def test_the_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRENN_API_KEY", "secret")
    environment = (await run(["env"], timeout_s=10, env={"GIVEN": "1"})).decode().splitlines()
    assert sorted(line.split("=")[0] for line in environment) == ["GIVEN", "LANG", "PATH"]


async def test_a_failure_has_exit_code_and_stderr() -> None:
    with pytest.raises(CommandError, match="sh failed with exit code 3") as caught:
        await run(["sh", "-c", "echo why >&2; exit 3"], timeout_s=10)
    assert caught.value.context["exit_code"] == 3
    assert caught.value.context["stderr"] == "why\n"


async def test_a_missing_program_is_an_error_of_ours() -> None:
    with pytest.raises(CommandError, match="no-such-program could not be started"):
        await run(["no-such-program"], timeout_s=10)


async def test_a_deadline_kills_the_grandchildren_too(tmp_path: Path) -> None:
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    reading = asyncio.create_task(asyncio.to_thread(fifo.read_text))
    with pytest.raises(CommandError, match="did not end within"):
        await run(["sh", "-c", _WITH_GRANDCHILD, str(fifo)], timeout_s=0.5)
    await _wait_gone(int(await reading))


async def test_a_cancellation_kills_the_grandchildren_too(tmp_path: Path) -> None:
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    running = asyncio.create_task(run(["sh", "-c", _WITH_GRANDCHILD, str(fifo)], timeout_s=60))
    pid = int(await asyncio.to_thread(fifo.read_text))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await _wait_gone(pid)


@pytest.mark.parametrize("turns", range(1, 12))
async def test_a_cancellation_at_any_moment_of_the_start_ends_at_once(turns: int) -> None:
    """asyncio itself waits for ever when it is cancelled while it connects the pipes."""
    running = asyncio.create_task(run(["sleep", "600"], timeout_s=60))
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await running


async def _wait_gone(pid: int) -> None:
    """Return when the process has ended (or is a zombie that only init has to collect)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, ended.set)
    try:
        async with asyncio.timeout(10):
            await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
