"""Processes followed through the whole platform, with a real guest behind it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.vm.platform import Platform
from wrenn import AsyncSandbox, DeadlineExceededError, InvalidStateError, ProcessLimitError
from wrenn.base.units import MIB
from wrenn.testing.fork_server import run_program

DEADLINE_S = 90.0
LARGE_B = 96 * MIB
GROWTH_LIMIT_B = 32 * MIB


@pytest.fixture
async def sandbox(platform: Platform) -> AsyncGenerator[AsyncSandbox]:
    created = await AsyncSandbox.create(memory_mb=256, api_key=platform.key, base_url=platform.base_url)
    async with asyncio.timeout(DEADLINE_S), created:
        yield created


EVERY_BYTE = (
    "import sys; sys.stdout.buffer.write(bytes(range(256)) * 4096); sys.stderr.buffer.write(b'\\xff\\xfe')"
)


async def test_output_comes_as_it_was_written_and_input_goes_in(sandbox: AsyncSandbox) -> None:
    async with await sandbox.commands.stream(["python3", "-c", EVERY_BYTE]) as stream:
        written = [(output.stream, output.data) async for output in stream]
    assert b"".join(data for name, data in written if name == "stdout") == bytes(range(256)) * 4096
    assert b"".join(data for name, data in written if name == "stderr") == b"\xff\xfe"
    assert stream.exit_code == 0

    content = bytes(range(256)) * 8192
    async with await sandbox.commands.stream(["sha256sum"], stdin=True) as stream:
        await stream.send_stdin(content)
        await stream.close_stdin()
        digest = "".join([output.text async for output in stream]).split()[0]
    assert digest == hashlib.sha256(content).hexdigest()


async def test_a_command_and_a_terminal_run_as_the_user_that_is_named(
    platform: Platform, sandbox: AsyncSandbox
) -> None:
    async def wrenn(*arguments: str) -> tuple[int, str, str]:
        environment = {**os.environ, "WRENN_API_KEY": platform.key, "WRENN_BASE_URL": platform.base_url}
        code, out, err = await run_program("wrenn.cli.main:main", arguments, environment=environment)
        return code, out.decode(), err.decode()

    who = "id -un; echo $HOME $USER; touch ~/made; stat -c %U ~/made"
    assert await wrenn("exec", "--user", "user", sandbox.id, who) == (
        0,
        "user\n/home/user user\nuser\n",
        "",
    )
    assert (await wrenn("exec", "--user", "user", sandbox.id, "kill -KILL $$"))[0] == 137
    code, out, err = await wrenn("exec", "--user", "nobody-here", sandbox.id, "true")
    assert (code, out) == (2, "")
    assert "nobody-here" in err

    async def shown(user: str) -> bytes:
        async with await sandbox.pty.create(user=user) as terminal:
            await terminal.send_input(b"echo I am $(id -un) in $0; exit\n")
            return b"".join([data async for data in terminal])

    assert b"I am user in /bin/bash" in await shown("user")
    await sandbox.commands.run("sed -i '/^user:/s,[^:]*$,/bin/sh,' /etc/passwd", check=True)
    assert b"I am user in /bin/sh" in await shown("user")
    # The account of a service has no shell of its own.
    assert b"I am daemon in /bin/bash" in await shown("daemon")


async def test_a_client_that_disconnects_kills_the_command_and_its_descendants(sandbox: AsyncSandbox) -> None:
    # In a session of its own, so that a signal to the group would miss it.
    script = "setsid sleep 4711 & echo up; wait"
    async with await sandbox.commands.stream(script) as stream:
        assert (await stream.read()) is not None
    while (await sandbox.commands.run("pgrep -fc '[s]leep 4711' || true")).stdout != "0\n":
        await asyncio.sleep(0.1)


async def test_attaching_replays_buffered_output(sandbox: AsyncSandbox) -> None:
    script = "import time; print('x' * 3_000_000, flush=True); time.sleep(600)"
    job = await sandbox.commands.run(["python3", "-c", script], background=True, tag="job")
    while True:
        async with await job.connect() as stream:
            if stream.missed + stream.replayed == 3_000_001:
                break
    assert 900_000 < stream.replayed <= MIB
    async with await sandbox.commands.connect("job") as one, await sandbox.commands.connect(job.pid) as two:
        assert await job.kill()
        assert await one.wait() == await two.wait() == 137
    kept = await sandbox.commands.run("echo said; exit 3", background=True, tag="short")
    while await kept.is_running():
        await asyncio.sleep(0.05)
    async with await kept.connect() as stream:
        assert [output.text async for output in stream] == ["said\n"]
    assert stream.exit_code == 3


async def test_a_call_ends_with_its_command_and_background_children_keep_running(
    sandbox: AsyncSandbox,
) -> None:
    server = "nohup python3 -m http.server 8000 & sleep 1; echo started"
    result = await sandbox.commands.run(server)
    # On a fast machine the server has said by then that it serves.
    assert "started\n" in result.stdout
    assert result.exit_code == 0
    # Its log goes to the output of the call that is over: each line would kill it if nobody read there any more.
    visit = "for n in 1 2 3; do curl -s -o /dev/null -w '%{http_code} ' --retry 9 --retry-connrefused localhost:8000; done"
    assert (await sandbox.commands.run(visit)).stdout == "200 200 200 "

    async with await sandbox.commands.stream("setsid sleep 4715 & echo up") as stream:
        assert await stream.wait() == 0
    async with await sandbox.pty.create("/bin/sh") as terminal:
        await terminal.send_input("sleep 4716 &\nexit 5\n")
        assert await terminal.wait() == 5
    assert (await sandbox.commands.run("pgrep -fc '[s]leep 471[56]'")).stdout == "2\n"


HOG = "held = []\nwhile True: held.append(b'x' * 10_000_000)"


async def test_a_command_that_ran_out_of_memory_is_reported_as_such(sandbox: AsyncSandbox) -> None:
    result = await sandbox.commands.run(["python3", "-c", HOG])
    assert (result.out_of_memory, result.exit_code, result.signal_name) == (True, 137, "SIGKILL")
    async with await sandbox.commands.stream(f'python3 -c "{HOG}"; echo the shell lives') as stream:
        assert await stream.wait() == 0
    assert stream.out_of_memory, "a process that it started"
    result = await sandbox.commands.run("kill -9 $$")
    assert (result.out_of_memory, result.signal) == (False, 9)


async def test_too_many_processes_is_an_error_of_its_own(sandbox: AsyncSandbox) -> None:
    limit = "/proc/sys/kernel/threads-max"
    before = await sandbox.files.read(limit)
    # A shell that needs no other process puts it right again.
    async with await sandbox.commands.stream(f"read number; echo $number > {limit}", stdin=True) as shell:
        await sandbox.commands.run(f"echo 20 > {limit}", check=True)
        with pytest.raises(ProcessLimitError, match="limit of processes"):
            await sandbox.commands.run("true")
        with pytest.raises(ProcessLimitError, match="limit of processes"):
            await sandbox.commands.run("true", background=True)
        await shell.send_stdin(before)
        assert await shell.wait() == 0
    assert (await sandbox.commands.run("true")).exit_code == 0


async def test_a_terminal_behaves_like_a_tty(sandbox: AsyncSandbox) -> None:
    async with await sandbox.pty.create("/bin/bash", cols=90, rows=30, tag="mine") as terminal:
        shown = ""

        async def see(text: str) -> None:
            nonlocal shown
            while text not in shown:
                output = await terminal.read(timeout_s=DEADLINE_S)
                assert output is not None
                shown += output.text
            shown = shown.partition(text)[2]

        await terminal.send_input("stty size; tty\n")
        await see("30 90")
        await see("/dev/pts/")
        await terminal.resize(100, 40)
        await terminal.send_input("stty size\n")
        await see("40 100")
        # Said by the job itself: the shell's own word would come before the job is what Ctrl-C reaches.
        await terminal.send_input(
            "sh -c \"trap 'echo caug''ht; exit' INT; echo rea''dy; while :; do sleep 0.2; done\"\n"
        )
        await see("ready")
        await terminal.send_input("\x03")
        await see("caught")
        # What is typed before the shell has the terminal back may be lost, as in any terminal. No Ctrl-C is typed again: one
        # that comes late would take what is typed behind it along.
        while "still" not in shown:
            await terminal.send_input("echo st''ill\n")
            with contextlib.suppress(DeadlineExceededError):
                while "still" not in shown:
                    output = await terminal.read(timeout_s=2)
                    assert output is not None
                    shown += output.text
        async with await sandbox.pty.connect("mine") as second:
            await second.send_input("exit 5\n")
            assert await second.wait() == await terminal.wait() == 5


async def test_a_pause_cuts_streams_with_an_error_and_their_processes_survive(sandbox: AsyncSandbox) -> None:
    stream = await sandbox.commands.stream(["sleep", "600"], tag="job")
    terminal = await sandbox.pty.create(on_disconnect="kill", tag="shell")
    await terminal.read()
    await sandbox.pause()
    for followed in (stream, terminal):
        with pytest.raises(InvalidStateError, match="paused"):
            await followed.wait()
    await sandbox.resume()
    assert {p.tag for p in await sandbox.commands.list()} == {"job", "shell"}
    async with await sandbox.pty.connect("shell") as again:
        await again.send_input("echo ba''ck\n")
        shown = ""
        while "back" not in shown:
            output = await again.read()
            assert output is not None
            shown += output.text


def resident_b(pid: int) -> int:
    """The memory that a process of this machine has for itself, with that of its threads."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"RssAnon:\s+(\d+) kB", text)[0]) * 1024


async def agent_of_guest_b(sandbox: AsyncSandbox) -> int:
    status = (await sandbox.commands.run("cat /proc/1/status")).stdout
    return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) * 1024


async def test_a_slow_reader_blocks_the_program_and_costs_no_memory(
    platform: Platform, sandbox: AsyncSandbox
) -> None:
    pids = {name: process.pid for name, process in platform.processes.items()}
    guest_before = await agent_of_guest_b(sandbox)
    before = {name: resident_b(pid) for name, pid in pids.items()}
    most = dict(before)
    most_in_guest = guest_before
    url = platform.base_url.replace("http:", "ws:") + f"/v1/sandboxes/{sandbox.id}/exec/stream"
    received, last = 0, None
    async with connect(
        url, additional_headers={"X-API-Key": platform.key}, proxy=None, compression=None, max_queue=1
    ) as socket:
        start = {
            "type": "start",
            "cmd": "head",
            "args": ["-c", str(LARGE_B), "/dev/zero"],
            "encoding": "binary",
        }
        await socket.send(json.dumps(start))
        looked_at = 0
        async for message in socket:
            if isinstance(message, bytes):
                received += len(message) - 1
            else:
                last = json.loads(message)
            if received - looked_at > LARGE_B // 12:
                looked_at = received
                # Everything between the program and us fills up while nobody reads.
                most_in_guest = max(most_in_guest, await agent_of_guest_b(sandbox))
                most = {name: max(most[name], resident_b(pid)) for name, pid in pids.items()}
    assert (received, last) == (LARGE_B, {"type": "exit", "exit_code": 0})
    grown = {name: most[name] - before[name] for name in pids} | {"guest": most_in_guest - guest_before}
    assert all(size < GROWTH_LIMIT_B for size in grown.values()), grown


async def wrenn(platform: Platform, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, as a user types it."""
    environment = {**os.environ, "WRENN_API_KEY": platform.key, "WRENN_BASE_URL": platform.base_url}
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "wrenn.cli.main", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


async def test_a_file_is_run_and_its_sandbox_removed(platform: Platform, tmp_path: Path) -> None:
    script = tmp_path / "hello.py"
    script.write_text(
        "import sys; print('hello', *sys.argv[1:]); print('no', file=sys.stderr); sys.exit(4)\n"
    )
    done = await wrenn(platform, "run", "--memory", "256", str(script), "--name", "x")
    assert (done.returncode, done.stdout, done.stderr) == (4, "hello --name x\n", "no\n")
    async with platform.client() as api:
        assert (await api.get("/v1/sandboxes")).json() == []
