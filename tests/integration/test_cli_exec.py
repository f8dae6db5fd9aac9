"""`wrenn exec` as a user types it: input, output as it comes, signals, time limits, terminals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from .conftest import DEADLINE_S, Platform
from .typed_commands import TYPED_DEADLINE_S, command, environment, person, sandbox_id, terminal, wrenn

LARGE_B = 24 * 1024 * 1024
"""More than fits into all buffers between the program and the sandbox."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's, with a team of the test's own."""
    return team_platform


@asynccontextmanager
async def running(
    platform: Platform, *arguments: str, stdin: int = DEVNULL
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """The command while it runs."""
    process = await asyncio.create_subprocess_exec(
        *command(*arguments), env=environment(platform), stdin=stdin, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(TYPED_DEADLINE_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def said(process: asyncio.subprocess.Process) -> str:
    """The next line of its output."""
    assert process.stdout is not None
    return (await process.stdout.readline()).decode()


async def test_output_comes_while_the_command_runs_and_input_goes_to_it(platform: Platform):
    path = await platform.create()
    box = sandbox_id(path)
    async with running(platform, "exec", box, "cat; echo end; exit 5", stdin=PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"one\n")
        assert await said(process) == "one\n"
        process.stdin.write(b"two\n")
        assert await said(process) == "two\n"
        process.stdin.close()
        assert await said(process) == "end\n"
        assert await process.wait() == 5
    assert await wrenn(platform, "exec", "--no-stdin", box, "cat; echo none", stdin=b"x") == (0, "none\n", "")
    assert await wrenn(platform, "exec", box, "echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")
    assert (await wrenn(platform, "exec", box, "no-such-program", "x"))[0] == 127


async def test_input_and_output_of_any_size_and_any_bytes_pass_through(platform: Platform):
    box = sandbox_id(await platform.create())
    data = os.urandom(LARGE_B // 8) * 8
    part = data[: LARGE_B // 4]
    async with running(platform, "exec", box, "cat", stdin=PIPE) as process:
        out, err = await process.communicate(part)
        assert (process.returncode, len(out), out == part, err) == (0, len(part), True, b"")
    # Nobody reads the input: the command's end is not held up by what is still to be passed on.
    async with running(platform, "exec", box, "exit 4", stdin=PIPE) as process:
        await process.communicate(data)
        assert process.returncode == 4


async def test_input_waits_for_a_command_that_does_not_read_yet(platform: Platform):
    box = sandbox_id(await platform.create())
    async with running(
        platform, "exec", box, "echo ready; until [ -e go ]; do sleep 0.02; done; wc -c", stdin=PIPE
    ) as process:
        assert process.stdin is not None
        assert await said(process) == "ready\n"
        process.stdin.write(b"x" * LARGE_B)
        process.stdin.close()
        (platform.host.root_of(box) / "root/go").touch()
        assert int(await said(process)) == LARGE_B
        assert await process.wait() == 0


async def test_ctrl_c_interrupts_the_command_and_a_second_one_kills_it(platform: Platform):
    path = await platform.create()
    box = sandbox_id(path)
    script = "trap 'echo interrupted; exit 7' INT; echo ready; while :; do sleep 0.02; done"
    async with running(platform, "exec", box, script) as process:
        assert await said(process) == "ready\n"
        process.send_signal(signal.SIGINT)
        assert await said(process) == "interrupted\n"
        assert await process.wait() == 7
    stubborn = "trap 'echo no' INT; echo ready; while :; do sleep 0.02; done"
    async with running(platform, "exec", box, stubborn) as process:
        assert await said(process) == "ready\n"
        process.send_signal(signal.SIGINT)
        assert await said(process) == "no\n"
        process.send_signal(signal.SIGINT)
        assert await process.wait() in (255, 128 + signal.SIGKILL)
    assert (await platform.api.get(f"{path}/processes")).json()["processes"] == []


async def test_the_command_ends_with_the_client_however_that_ends(platform: Platform):
    path = await platform.create()
    for number, code in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)):
        async with running(platform, "exec", sandbox_id(path), "echo ready; sleep 600") as process:
            assert await said(process) == "ready\n"
            process.send_signal(number)
            assert await process.wait() == code
        async with asyncio.timeout(DEADLINE_S):
            while (await platform.api.get(f"{path}/processes")).json()["processes"]:
                await asyncio.sleep(0.05)


async def test_a_time_limit_keeps_what_was_written(platform: Platform):
    box = sandbox_id(await platform.create())
    script = "echo before; echo err >&2; sleep 600"
    code, out, err = await wrenn(platform, "exec", "--timeout", "1", box, script)
    assert (code, out) == (124, "before\n")
    assert err.startswith("err\nwrenn: ")
    code, out, _ = await wrenn(platform, "exec", "--timeout", "1", "--json", box, script)
    result = json.loads(out)
    assert (code, result["stdout"], result["stderr"], result["timed_out"]) == (124, "before\n", "err\n", True)
    code, out, _ = await wrenn(platform, "exec", "--timeout", "0", "--json", box, "cat; exit 2", stdin=b"in")
    result = json.loads(out)
    assert (code, result["stdout"], result["exit_code"], result["timed_out"]) == (2, "in", 2, False)


async def test_the_exit_code_contains_the_signal_that_ended_the_command(platform: Platform):
    box = sandbox_id(await platform.create())
    for name in ("KILL", "TERM"):
        number = signal.Signals[f"SIG{name}"]
        assert (await wrenn(platform, "exec", box, f"kill -{name} $$"))[0] == 128 + number
    code, out, _ = await wrenn(platform, "exec", "--json", box, "kill -KILL $$")
    result = json.loads(out)
    assert (code, result["exit_code"], result["signal"]) == (137, 137, "SIGKILL")

    def use() -> None:
        with terminal(platform, "exec", "-t", box, "echo rea''dy; kill -KILL $$") as shell:
            shell.see("ready")
            assert shell.ended() == 128 + signal.SIGKILL
        with terminal(platform, "shell", box) as shell:
            shell.type("kill -KILL $$\n")
            assert shell.ended() == 128 + signal.SIGKILL

    await person(use)


async def test_a_terminal_without_a_command_has_the_shell_of_the_user(platform: Platform):
    box = sandbox_id(await platform.create())
    code, _, err = await wrenn(platform, "exec", box)
    assert (code, "CMD is missing" in err) == (2, True)

    def use() -> None:
        for arguments in (("exec", "-it", box), ("shell", box)):
            with terminal(platform, *arguments) as shell:
                shell.type("echo name''d $0\n")
                shell.see("named /bin/bash")
                shell.type("exit 6\n")
                assert shell.ended() == 6

    await person(use)


async def test_options_reach_the_command(platform: Platform):
    box = sandbox_id(await platform.create())
    code, out, _ = await wrenn(
        platform,
        "exec",
        "--cwd",
        "/root",
        "-e",
        "A=1",
        "-in",
        "--env",
        "B=2",
        box,
        "sh",
        "-c",
        'echo "${PWD##*/} $A $B"',
    )
    assert (code, out) == (0, "root 1 2\n")
    for wrong in (["-d", "-i"], ["-d", "--timeout", "3"], ["-t"], ["--tag", "x"], ["-t", "--json"]):
        code, _, err = await wrenn(platform, "exec", *wrong, box, "true")
        assert (code, "Error: " in err or "Invalid value" in err) == (2, True), err


async def test_a_terminal_is_given_on_request(platform: Platform):
    path = await platform.create()
    box = sandbox_id(path)

    def use() -> None:
        with terminal(platform, "exec", "-it", "--env", "A=b", box, "/bin/sh") as shell:
            shell.type("stty size; echo $A$TERM\n")
            shell.see("30 90")
            shell.see("bxterm")
            shell.resize(100, 40)
            shell.type("until [ \"$(stty size)\" = '40 100' ]; do sleep 0.05; done; echo chan''ged\n")
            shell.see("changed")
            shell.interrupt()
            shell.type_until("still here", typing="echo st''ill he''re\n")
            shell.type("exit 7\n")
            assert shell.ended() == 7
        with terminal(platform, "exec", "-t", "--timeout", "1", box, "echo ready; sleep 600") as shell:
            shell.see("within 1 s")
            assert shell.ended() == 124
        with terminal(platform, "exec", "-i", box, "tty; cat") as shell:
            shell.see("not a tty")
            shell.type("line\n\x04")
            assert shell.ended() == 0

    await person(use)
    async with asyncio.timeout(DEADLINE_S):
        while (await platform.api.get(f"{path}/processes")).json()["processes"]:
            await asyncio.sleep(0.05)
