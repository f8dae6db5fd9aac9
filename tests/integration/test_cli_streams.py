"""`wrenn shell`, `run` and `logs` as a user types them; the shell in a pseudo-terminal of its own."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .conftest import DEADLINE_S, Platform

TYPED_DEADLINE_S = 4 * DEADLINE_S
AGAIN_S = 2.0
"""What was typed is typed again after this time."""


def environment(platform: Platform) -> dict[str, str]:
    return {
        **os.environ,
        "WRENN_API_KEY": platform.key.reveal(),
        "WRENN_BASE_URL": platform.url,
        "TERM": "xterm",
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "wrenn.cli.main", *arguments]


async def wrenn(platform: Platform, *arguments: str, stdin: bytes | None = None) -> tuple[int, str, str]:
    """The command's exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *command(*arguments),
        env=environment(platform),
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(TYPED_DEADLINE_S):
        out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@dataclass
class Terminal:
    """A pseudo-terminal with the command in it; `master` is where a person would sit."""

    master: int
    slave: int
    process: subprocess.Popen[bytes]
    shown: str = ""
    modes: list[object] = field(default_factory=list[object])

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def see(self, text: str) -> None:
        """Wait until this is shown, after what was seen before."""
        limit = time.monotonic() + TYPED_DEADLINE_S
        while text not in self.shown:
            ready, _, _ = select.select([self.master], [], [], 0.2)
            if ready:
                self.shown += os.read(self.master, 65536).decode(errors="replace")
            assert time.monotonic() < limit, self.shown
        self.shown = self.shown.partition(text)[2]

    def interrupt_until(self, text: str, *, typing: str) -> None:
        """Press Ctrl-C and type, until this is shown.

        What is typed before the shell has the terminal back from the command may be lost, as in any terminal.
        """
        limit = time.monotonic() + TYPED_DEADLINE_S
        while text not in self.shown:
            self.type("\x03" + typing)
            look_until = time.monotonic() + AGAIN_S
            while text not in self.shown and time.monotonic() < look_until:
                ready, _, _ = select.select([self.master], [], [], 0.2)
                if ready:
                    self.shown += os.read(self.master, 65536).decode(errors="replace")
            assert time.monotonic() < limit, self.shown
        self.shown = self.shown.partition(text)[2]

    def resize(self, cols: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def ended(self) -> int:
        """Its exit code; the terminal must be as it was."""
        code = self.process.wait(TYPED_DEADLINE_S)
        assert termios.tcgetattr(self.slave) == self.modes
        return code


@contextmanager
def terminal(platform: Platform, *arguments: str) -> Generator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
    modes: list[object] = termios.tcgetattr(slave)
    process = subprocess.Popen(
        command(*arguments),
        env=environment(platform),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    try:
        yield Terminal(master, slave, process, modes=modes)
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


def sandbox_id(path: str) -> str:
    return path.rpartition("/")[2]


async def test_a_shell_is_a_terminal(platform: Platform):
    box = sandbox_id(await platform.create())

    def use() -> None:
        with terminal(platform, "shell", box, "/bin/sh") as shell:
            shell.type("stty size; echo si''ze\n")
            shell.see("30 90")
            shell.see("size")
            shell.resize(100, 40)
            # The size arrives on its own way, beside what is typed.
            shell.type("until [ \"$(stty size)\" = '40 100' ]; do sleep 0.05; done; echo chan''ged\n")
            shell.see("changed")
            shell.type("sh -c \"echo rea''dy; sleep 600\"\n")
            shell.see("ready")
            shell.interrupt_until("still here", typing="echo st''ill he''re\n")
            shell.type("exit 7\n")
            assert shell.ended() == 7

    await asyncio.to_thread(use)


async def test_whoever_leaves_a_shell_gets_the_terminal_back(platform: Platform):
    path = await platform.create()
    box = sandbox_id(path)

    def leave() -> None:
        with terminal(platform, "shell", box, "/bin/sh") as shell:
            shell.type("echo rea''dy\n")
            shell.see("ready")
            shell.type("\r~.")
            assert shell.ended() == 0

    def be_ended() -> None:
        with terminal(platform, "shell", box, "--tag", "mine", "/bin/sh") as shell:
            shell.type("echo fir''st\n")
            shell.see("first")
            shell.process.terminate()
            assert shell.ended() == 128 + signal.SIGTERM

    def come_back() -> None:
        with terminal(platform, "shell", box, "--tag", "mine") as shell:
            shell.see("first")
            shell.type("exit 3\n")
            assert shell.ended() == 3

    await asyncio.to_thread(leave)
    async with asyncio.timeout(DEADLINE_S):
        while (await platform.api.get(f"{path}/processes")).json()["processes"]:
            await asyncio.sleep(0.05)
    await asyncio.to_thread(be_ended)
    await asyncio.to_thread(come_back)


async def test_a_shell_that_a_pause_ends_says_so_on_a_mended_terminal(platform: Platform):
    path = await platform.create()
    paused = asyncio.Event()
    loop = asyncio.get_running_loop()

    def use() -> None:
        with terminal(platform, "shell", sandbox_id(path), "/bin/sh") as shell:
            shell.type("echo rea''dy\n")
            shell.see("ready")
            loop.call_soon_threadsafe(paused.set)
            shell.see("paused")
            assert shell.ended() == 1

    using = asyncio.create_task(asyncio.to_thread(use))
    await paused.wait()
    assert (await platform.api.post(f"{path}/pause")).status_code == 200
    await using


async def test_a_shell_needs_a_terminal(platform: Platform):
    code, _, err = await wrenn(platform, "shell", "cl-" + "0" * 25)
    assert code == 2
    assert "wrenn exec" in err


async def test_a_file_is_run_in_a_sandbox_of_its_own(platform: Platform, tmp_path: Path):
    (tmp_path / "hello.py").write_text(
        "import sys; print(*sys.argv[1:]); print(sys.stdin.read(), file=sys.stderr); sys.exit(4)"
    )
    (tmp_path / "lines.sh").write_text("echo $A $1; exit 5")
    (tmp_path / "tool").write_text("#!/bin/sh\necho tool $@\n")
    # The simulated host starts programs of this machine, whose paths are not those of the folder.
    ran = [
        await wrenn(platform, "run", "-i", str(tmp_path / "hello.py"), "--name", "x", stdin=b"in"),
        await wrenn(platform, "run", "--env", "A=b", str(tmp_path / "lines.sh"), "--", "c"),
    ]
    assert [code for code, _, _ in ran] != [0, 0]
    assert (await platform.api.get("/v1/sandboxes")).json() == []
    code, _, err = await wrenn(platform, "run", str(tmp_path / "none"))
    assert code == 2
    assert "none" in err


async def test_the_output_of_a_background_process_is_shown(platform: Platform):
    path = await platform.create()
    box = sandbox_id(path)
    script = "echo out; echo err >&2; while [ ! -e go ]; do sleep 0.02; done; echo more; exit 6"
    body = {"cmd": "/bin/sh", "args": ["-c", script], "background": True, "tag": "job"}
    await platform.api.post(f"{path}/exec", json=body)
    async with asyncio.timeout(TYPED_DEADLINE_S):
        while (await wrenn(platform, "logs", box, "job"))[1:] != ("out\n", "err\n"):
            pass
    following = asyncio.create_task(wrenn(platform, "logs", box, "job", "--follow", "--json"))
    await platform.host.wait_call("stream", count=2)
    (platform.host.root_of(box) / "root/go").touch()
    code, out, _ = await following
    assert code == 0
    assert out.endswith('{"stream": "stdout", "text": "more\\n"}\n')
    assert (await wrenn(platform, "logs", box, "none"))[0] == 3
