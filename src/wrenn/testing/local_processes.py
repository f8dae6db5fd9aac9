"""Processes of this machine, followed as those of a guest: what `wrenn.guest.Processes` does, without a guest.

For the simulated host, which so runs the agent's own code for streams over them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal

from wrenn.base.errors import DeadlineExceeded, InvalidState, NotFound
from wrenn.base.signal_names import SIGNAL_EXIT_BASE
from wrenn.base.units import KIB, MIB
from wrenn.guest import CommandLine, Event, Exited, Output, Started
from wrenn.protocol.api import SHELL

_CHUNK_B: Final = 32 * KIB
_KEPT_B: Final = 1 * MIB
_WAITING: Final = 16

Stream = Literal["stdout", "stderr", "pty"]


class LocalProcess:
    """A process with those who follow it. Made by `spawn`."""

    def __init__(self, process: asyncio.subprocess.Process, tag: str, command: CommandLine) -> None:
        self.process = process
        self.tag = tag
        self.command = command
        self.terminal: int | None = None
        self.end: Exited | None = None
        self._kept: deque[tuple[Stream, bytes]] = deque()
        self._kept_b = 0
        self._missed = 0
        self._followers: set[asyncio.Queue[Event]] = set()
        self.pump: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Its id, and that of its group."""
        return self.process.pid

    async def run(self, sources: Mapping[Stream, asyncio.StreamReader]) -> None:
        """Carry output to the followers until its end."""
        await asyncio.gather(*(self._carry(stream, source) for stream, source in sources.items()))
        code = await self.process.wait()
        self.end = Exited(code) if code >= 0 else Exited(SIGNAL_EXIT_BASE - code, -code)
        for queue in list(self._followers):
            await queue.put(self.end)
        if self.terminal is not None:
            os.close(self.terminal)
            self.terminal = None

    async def _carry(self, stream: Stream, source: asyncio.StreamReader) -> None:
        while chunk := await _read(source):
            self._kept.append((stream, chunk))
            self._kept_b += len(chunk)
            while self._kept_b > _KEPT_B:
                gone = len(self._kept.popleft()[1])
                self._kept_b -= gone
                self._missed += gone
            for queue in list(self._followers):
                await queue.put(Output(stream, (chunk,)))

    @asynccontextmanager
    async def followed(self, *, replay: bool) -> AsyncGenerator[LocalFollower]:
        """Follow it from now on, or from what is kept."""
        queue: asyncio.Queue[Event] = asyncio.Queue(_WAITING)
        missed, replayed = (self._missed, self._kept_b) if replay else (0, 0)
        first: list[Event] = [Started(self.pid, missed, replayed)]
        if replay:
            first += [Output(stream, (chunk,)) for stream, chunk in self._kept]
        if self.end is not None:
            first.append(self.end)
        self._followers.add(queue)
        try:
            yield LocalFollower(self, queue, first)
        finally:
            self._followers.discard(queue)
            while not queue.empty():  # lets a pump that waits for room go on
                queue.get_nowait()

    def signal(self, number: int) -> None:
        """To its group."""
        if self.end is not None:
            raise NotFound("No such process.")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class LocalFollower:
    """One who follows it; the methods are those of `FollowedProcess`."""

    def __init__(self, process: LocalProcess, queue: asyncio.Queue[Event], first: list[Event]) -> None:
        self._process = process
        self._queue = queue
        self._first = first
        self.pid = process.pid
        self.overdue = False

    async def events(self) -> AsyncIterator[list[Event]]:
        """As they come."""
        yield self._first
        last = self._first[-1]
        while not isinstance(last, Exited):
            last = await self._queue.get()
            if self.overdue and isinstance(last, Exited):
                raise DeadlineExceeded("the process did not end in time and was killed")
            yield [last]

    def kill_overdue(self) -> None:
        """Its time is up."""
        self.overdue = True
        self._process.signal(signal.SIGKILL)

    async def write(self, data: bytes) -> None:
        """To its input."""
        if self._process.terminal is not None:
            os.write(self._process.terminal, data)
            return
        stdin = self._process.process.stdin
        if stdin is None or stdin.is_closing():
            raise InvalidState("Its input is closed.")
        stdin.write(data)
        try:
            await stdin.drain()
        except ConnectionError as error:
            raise InvalidState("Its input is closed.") from error

    async def close_input(self) -> None:
        """End of input."""
        if (stdin := self._process.process.stdin) is not None:
            stdin.close()

    async def resize(self, cols: int, rows: int) -> None:
        """Of its terminal."""
        if self._process.terminal is None:
            raise InvalidState("It has no terminal.")
        set_size(self._process.terminal, cols, rows)

    async def signal(self, number: int) -> None:
        """To its group."""
        self._process.signal(number)

    async def kill_quietly(self) -> None:
        """Its group."""
        with contextlib.suppress(NotFound):
            self._process.signal(signal.SIGKILL)


async def _read(source: asyncio.StreamReader) -> bytes:
    try:
        return await source.read(_CHUNK_B)
    except OSError:  # a terminal whose other side is closed
        return b""


def set_size(terminal: int, cols: int, rows: int) -> None:
    """Of a terminal."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def resolved(cmd: str) -> str:
    """The program that a guest would start: the name `$SHELL` stands for its shell, which here is that of every user."""
    if cmd != SHELL:
        return cmd
    return "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"


async def spawn(
    command: CommandLine,
    *,
    envs: Mapping[str, str],
    cwd: Path,
    tag: str = "",
    stdin: bool = False,
    size: tuple[int, int] | None = None,
) -> LocalProcess:
    """Start a program. Raises NotFound."""
    if size is not None:
        master, slave = os.openpty()
        set_size(master, *size)
        ends, own_terminal = (slave, slave, slave), _take_terminal
    else:
        master, slave = -1, -1
        pipe = asyncio.subprocess.PIPE
        ends, own_terminal = (pipe if stdin else asyncio.subprocess.DEVNULL, pipe, pipe), None
    try:
        process = await asyncio.create_subprocess_exec(
            resolved(command.cmd),
            *command.args,
            env=dict(envs),
            cwd=cwd,
            stdin=ends[0],
            stdout=ends[1],
            stderr=ends[2],
            start_new_session=True,
            preexec_fn=own_terminal,
        )
    except FileNotFoundError as error:
        if size is not None:
            os.close(master)
        raise NotFound(f"command '{command.cmd}' not found") from error
    finally:
        if size is not None:
            os.close(slave)
    local = LocalProcess(process, tag, command)
    if size is not None:
        local.terminal = os.dup(master)
        sources: dict[Stream, asyncio.StreamReader] = {"pty": await _reader(master)}
    else:
        assert process.stdout is not None
        assert process.stderr is not None
        sources = {"stdout": process.stdout, "stderr": process.stderr}
    local.pump = asyncio.create_task(local.run(sources))
    return local


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    return reader


class LocalProcesses:
    """What stands for `wrenn.guest.Processes`.

    Attributes:
        spawn: starts a program of one sandbox.
        find: the process with this pid or tag; raises NotFound.
    """

    def __init__(
        self,
        spawn: Callable[[CommandLine, str, bool, tuple[int, int] | None], Awaitable[LocalProcess]],
        find: Callable[[int | str], LocalProcess],
    ) -> None:
        self._spawn = spawn
        self._find = find

    @asynccontextmanager
    async def start(
        self,
        command: CommandLine,
        *,
        tag: str = "",
        stdin: bool = False,
        size: tuple[int, int] | None = None,
        timeout_s: float = 0.0,
    ) -> AsyncGenerator[LocalFollower | _NotStarted]:
        """Start a program and follow it."""
        try:
            process = await self._spawn(command, tag, stdin, size)
        except NotFound as error:
            yield _NotStarted(error)
            return
        async with process.followed(replay=True) as follower:
            if not timeout_s:
                yield follower
                return
            alarm = asyncio.get_running_loop().call_later(timeout_s, follower.kill_overdue)
            try:
                yield follower
            finally:
                alarm.cancel()

    @asynccontextmanager
    async def attach(
        self,
        selector: int | str,
        *,
        replay: bool,
        in_terminal: bool,  # noqa: ARG002 - it is known which processes have one
    ) -> AsyncGenerator[LocalFollower]:
        """Follow a process that runs."""
        async with self._find(selector).followed(replay=replay) as follower:
            yield follower


class _NotStarted:
    """As a guest tells it: when its events are read."""

    pid = 0

    def __init__(self, error: NotFound) -> None:
        self._error = error

    async def events(self) -> AsyncIterator[list[Event]]:
        """None."""
        raise self._error
        yield []
