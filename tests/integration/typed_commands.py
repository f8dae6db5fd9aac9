"""The `wrenn` command as a user starts it: with pipes, or in a pseudo-terminal of its own."""

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
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from wrenn.testing.fork_server import run_program

from .conftest import DEADLINE_S, Platform

TYPED_DEADLINE_S = 2 * DEADLINE_S
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
    async with asyncio.timeout(TYPED_DEADLINE_S):
        code, out, err = await run_program(
            "wrenn.cli.main:main", arguments, environment=environment(platform), stdin=stdin
        )
    return code, out.decode(), err.decode()


@dataclass
class Terminal:
    """A pseudo-terminal with the command in it; `master` is where a person would sit."""

    master: int
    slave: int
    process: subprocess.Popen[bytes]
    shown: str = ""
    modes: list[object] = field(default_factory=list[object])

    def type(self, text: str) -> None:
        left = text.encode()
        while left:
            # A terminal that nobody reads takes only so much.
            _, ready, _ = select.select([], [self.master], [], TYPED_DEADLINE_S)
            assert ready, f"nobody reads what is typed: {text!r}"
            left = left[os.write(self.master, left) :]

    def see(self, text: str) -> None:
        """Wait until this is shown, after what was seen before."""
        limit = time.monotonic() + TYPED_DEADLINE_S
        while text not in self.shown:
            self._look(limit)
        self.shown = self.shown.partition(text)[2]

    def interrupt(self) -> None:
        """Have the shell run a job, and press Ctrl-C once the job says that it runs, until it says that it was reached."""
        self.type("sh -c \"trap 'echo caug''ht; exit' INT; echo rea''dy; while :; do sleep 0.2; done\"\n")
        self.see("ready")
        self.type("\x03")
        self.see("caught")

    def type_until(self, text: str, *, typing: str) -> None:
        """Type again and again until this is shown.

        What is typed before the shell has the terminal back from a job may be lost, as in any terminal.
        """
        limit = time.monotonic() + TYPED_DEADLINE_S
        while text not in self.shown:
            self.type(typing)
            look_until = time.monotonic() + AGAIN_S
            while text not in self.shown and time.monotonic() < look_until:
                self._look(limit)
        self.shown = self.shown.partition(text)[2]

    def _look(self, limit: float) -> None:
        ready, _, _ = select.select([self.master], [], [], 0.2)
        if ready:
            self.shown += os.read(self.master, 65536).decode(errors="replace")
            return
        assert self.process.poll() is None, f"it has ended: {self.shown}"
        assert time.monotonic() < limit, self.shown

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
    os.set_blocking(master, False)
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
        process.wait(DEADLINE_S)
        os.close(master)
        os.close(slave)


def sandbox_id(path: str) -> str:
    return path.rpartition("/")[2]


async def person(use: Callable[[], None]) -> None:
    """Do in a thread what a person does at a terminal.

    Not `asyncio.to_thread`: the end of the event loop waits for its threads without limit, so that one which waits for what
    will not come would hold up the end of a failed test. This one is left to its own deadlines.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def set_result(error: BaseException | None) -> None:
        if ended.done():
            return
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    def run() -> None:
        failure: BaseException | None = None
        try:
            use()
        except BaseException as error:  # noqa: BLE001 - raised in the test
            failure = error
        with suppress(RuntimeError):  # the test, and its event loop, have ended before
            loop.call_soon_threadsafe(set_result, failure)

    threading.Thread(target=run, name="person", daemon=True).start()
    await ended
