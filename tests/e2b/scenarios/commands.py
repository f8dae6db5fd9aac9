"""Commands and terminals."""

from __future__ import annotations

import asyncio
import time

import pytest
from e2b import (
    AsyncSandbox,
    CommandExitException,
    InvalidArgumentException,
    NotFoundException,
    PtySize,
    Sandbox,
    SandboxException,
    TimeoutException,
)

TEMPLATE = "minimal"


def foreground_commands() -> None:
    with Sandbox.create(TEMPLATE, timeout=120, envs={"OF_SANDBOX": "1"}) as sandbox:
        result = sandbox.commands.run("echo out; echo err >&2")
        assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)
        out: list[str] = []
        err: list[str] = []
        sandbox.commands.run("echo a; echo b >&2", on_stdout=out.append, on_stderr=err.append)
        assert ("".join(out), "".join(err)) == ("a\n", "b\n")
        assert sandbox.commands.run("pwd", cwd="/tmp").stdout == "/tmp\n"
        variables = sandbox.commands.run("echo $E2B_SANDBOX $OF_SANDBOX $OF_CALL", envs={"OF_CALL": "2"})
        assert variables.stdout == "true 1 2\n"
        assert sandbox.commands.run("echo -n 'äöü €'; printf '\\360\\237\\230\\200'").stdout == "äöü €😀"
        many = sandbox.commands.run("seq 1 200000")
        assert many.stdout.splitlines() == [str(n) for n in range(1, 200_001)]


def failing_commands() -> None:
    with Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        with pytest.raises(CommandExitException) as failed:
            sandbox.commands.run("echo said; echo why >&2; exit 3")
        error = failed.value
        assert (error.exit_code, error.stdout, error.stderr) == (3, "said\n", "why\n")
        with pytest.raises(InvalidArgumentException, match="/no/such/folder"):
            sandbox.commands.run("true", cwd="/no/such/folder")
        with pytest.raises(CommandExitException) as failed:
            sandbox.commands.run("no-such-program-at-all")
        assert failed.value.exit_code == 127


def time_limits_of_commands() -> None:
    with Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        began = time.monotonic()
        with pytest.raises(TimeoutException):
            sandbox.commands.run("sleep 30", timeout=1)
        assert time.monotonic() - began < 10
        deadline = time.monotonic() + 5
        while sandbox.commands.list():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert sandbox.commands.run("sleep 0.2; echo done", timeout=0).stdout == "done\n"


def background_commands() -> None:
    with Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        handle = sandbox.commands.run("echo begun; sleep 60; echo ended", background=True)
        (listed,) = sandbox.commands.list()
        assert listed.pid == handle.pid
        assert listed.cmd == "/bin/bash"
        assert listed.args[-1] == "echo begun; sleep 60; echo ended"
        again = sandbox.commands.connect(handle.pid)
        assert again.pid == handle.pid
        handle.disconnect()
        assert [each.pid for each in sandbox.commands.list()] == [handle.pid]
        assert again.kill()
        with pytest.raises(CommandExitException) as killed:
            again.wait()
        assert killed.value.exit_code != 0
        assert not sandbox.commands.kill(handle.pid)
        assert sandbox.commands.list() == []
        with pytest.raises(NotFoundException):
            sandbox.commands.connect(999_999)
        # What holds its output delays the end of a command.
        began = time.monotonic()
        assert sandbox.commands.run("(sleep 0.5; echo late) & echo early").stdout == "early\nlate\n"
        assert time.monotonic() - began >= 0.5


def input_of_commands() -> None:
    with Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        handle = sandbox.commands.run("cat", background=True, stdin=True)
        sandbox.commands.send_stdin(handle.pid, "one\n")
        sandbox.commands.send_stdin(handle.pid, "zwei €\n")
        sandbox.commands.close_stdin(handle.pid)
        assert handle.wait().stdout == "one\nzwei €\n"
        counted = sandbox.commands.run("wc -c", background=True, stdin=True)
        for _ in range(20):
            sandbox.commands.send_stdin(counted.pid, "x" * 50_000)
        sandbox.commands.close_stdin(counted.pid)
        assert counted.wait().stdout.strip() == "1000000"
        silent = sandbox.commands.run("sleep 30", background=True)
        with pytest.raises(SandboxException, match="stdin"):
            sandbox.commands.send_stdin(silent.pid, "x")
        silent.kill()


def terminals() -> None:
    with Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        seen = b""

        def see(data: bytes) -> None:
            nonlocal seen
            seen += data

        handle = sandbox.pty.create(PtySize(rows=24, cols=80), envs={"OF_TERMINAL": "7"}, cwd="/tmp")
        sandbox.pty.send_stdin(handle.pid, b"stty size; echo $((20+22)) $TERM $OF_TERMINAL; pwd\n")
        sandbox.pty.resize(handle.pid, PtySize(rows=40, cols=100))
        sandbox.pty.send_stdin(handle.pid, b"stty size; exit 0\n")
        handle.wait(on_pty=see)
        for text in (b"42 xterm-256color 7", b"/tmp", b"40 100"):
            assert text in seen, seen
        other = sandbox.pty.create(PtySize(rows=24, cols=80))
        assert sandbox.pty.kill(other.pid)
        assert not sandbox.pty.kill(other.pid)


async def many_commands_at_once() -> None:
    sandbox = await AsyncSandbox.create(TEMPLATE, timeout=120)
    try:
        results = await asyncio.gather(*(sandbox.commands.run(f"echo {n}") for n in range(50)))
        assert [each.stdout for each in results] == [f"{n}\n" for n in range(50)]
        handle = await sandbox.commands.run("read line; echo got $line", background=True, stdin=True)
        await sandbox.commands.send_stdin(handle.pid, "it\n")
        assert (await handle.wait()).stdout == "got it\n"
        seen: list[bytes] = []
        terminal = await sandbox.pty.create(PtySize(rows=24, cols=80), on_data=seen.append)
        await sandbox.pty.send_stdin(terminal.pid, b"echo $((6*7)); exit\n")
        await terminal.wait()
        assert b"42" in b"".join(seen)
    finally:
        await sandbox.kill()


def a_sandbox_that_is_killed_in_the_middle_of_a_command() -> None:
    sandbox = Sandbox.create(TEMPLATE, timeout=120)
    assert sandbox.is_running()
    handle = sandbox.commands.run("echo begun; sleep 60", background=True)
    assert Sandbox.kill(sandbox.sandbox_id)
    # The releases have different classes and texts for it.
    with pytest.raises(
        (SandboxException, TimeoutException), match=r"killed or reached its end|due to sandbox timeout"
    ):
        handle.wait()
    assert not sandbox.is_running()
    with pytest.raises((SandboxException, TimeoutException), match="not found"):
        sandbox.commands.run("true")
