"""The programs of a simulated guest: a few scripted ones, with state that is saved and restored with the machine's memory.

`true`, `false`, `echo TEXT…`, `printenv NAME`, `cat [FILE…]` and `sleep SECONDS` behave as those of a Linux system.
"""

from __future__ import annotations

import asyncio
import base64
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from wrenn.testing.simulation.guest_error import GuestError
from wrenn.testing.simulation.tree import Tree

_SIGKILL: Final = 9
_SIGCONT: Final = 18
_SIGSTOP: Final = 19
_ENDING_SIGNALS: Final = frozenset({1, 2, 3, _SIGKILL, 10, 12, 15})
_FIRST_PID: Final = 300
_ROUNDING_S: Final = 1e-6
_UNREAD_RESULT_S: Final = 3600.0
_READ_RESULT_S: Final = 30.0
"""How long the result of a process is stored, as by envd."""

Draw = Callable[[], float]
"""Draws a duration in seconds."""


@dataclass(slots=True)
class Process:
    """A process, as it is in memory.

    Attributes:
        output: what it has written, as (stream, base64).
        ends_in_s: running time that is left until it exits; None: it waits for input.
        killed_in_s: running time that is left until its time limit; None: it has none.
        exit_code: the code that it exits with.
        is_stopped: by SIGSTOP.
        ended: exit code and signal, once it has ended.
        is_overdue: killed at its time limit.
        forgotten_in_s: time that is left until its result is dropped, once it has ended.
    """

    pid: int
    tag: str
    cmd: str
    args: list[str]
    takes_input: bool
    output: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    ends_in_s: float | None = None
    killed_in_s: float | None = None
    exit_code: int = 0
    is_stopped: bool = False
    ended: tuple[int, int] | None = None
    is_overdue: bool = False
    forgotten_in_s: float = _UNREAD_RESULT_S

    def write(self, stream: str, data: bytes) -> None:
        """Write output."""
        self.output.append((stream, base64.b64encode(data).decode()))


class Processes:
    """The processes of one running guest. Time passes for them only while it is `run`.

    `draw_s` draws how long a program takes that does nothing but compute.
    """

    def __init__(self, tree: Tree, draw_s: Draw, saved: Mapping[str, Any]) -> None:
        self._tree = tree
        self._draw_s = draw_s
        self._next_pid: int = saved.get("next_pid", _FIRST_PID)
        self._all: dict[int, Process] = {}
        for fields in saved.get("all", ()):
            process = Process(**fields)
            self._all[process.pid] = process
        self._timers: dict[int, tuple[float, asyncio.TimerHandle]] = {}
        self._changed = asyncio.Event()
        self._is_running = False

    def saved(self) -> dict[str, Any]:
        """Return the state of all processes, which do not run now."""
        return {"next_pid": self._next_pid, "all": [asdict(process) for process in self._all.values()]}

    def run(self, *, running: bool) -> None:
        """Let all processes run, or stop them. Idempotent."""
        if running == self._is_running:
            return
        self._is_running = running
        for process in list(self._all.values()):
            self._wind(process) if running else self._unwind(process)

    def live(self) -> list[Process]:
        """Return the processes that have not ended."""
        return [process for process in self._all.values() if process.ended is None]

    def find(self, selector: int | str) -> Process:
        """Return a live process by pid or tag. Raises GuestError."""
        for process in self.live():
            if selector in (process.pid, process.tag):
                return process
        raise GuestError("not_found", f"process {selector} not found")

    def find_result(self, selector: int | str) -> Process:
        """Return a live process, or the latest ended one whose result is stored. Raises GuestError."""
        for process in (*self.live(), *reversed(self._all.values())):
            if selector in (process.pid, process.tag):
                return process
        raise GuestError("not_found", f"process {selector} not found")

    def mark_read(self, process: Process) -> None:
        """Note that the result of an ended process was read."""
        self._unwind(process)
        process.forgotten_in_s = min(process.forgotten_in_s, _READ_RESULT_S)
        if self._is_running:
            self._wind(process)

    async def wait_changed(self, timeout_s: float | None) -> bool:
        """Return whether a process has changed before this time has passed."""
        changed = self._changed
        try:
            async with asyncio.timeout(timeout_s):
                await changed.wait()
        except TimeoutError:
            return False
        return True

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def start(
        self,
        cmd: str,
        args: list[str],
        *,
        envs: Mapping[str, str],
        cwd: str,
        tag: str,
        takes_input: bool,
        limit_s: float | None,
    ) -> Process:
        """Start a program. Raises GuestError."""
        begin = _PROGRAMS.get(posixpath.basename(cmd))
        if begin is None or ("/" in cmd and posixpath.dirname(cmd) not in ("/bin", "/usr/bin")):
            raise GuestError("not_found", f"command '{cmd}' not found")
        process = Process(self._next_pid, tag, cmd, args, takes_input, killed_in_s=limit_s)
        self._next_pid += 1
        process.ends_in_s = self._draw_s()
        begin(process, args, envs, cwd, self._tree)
        self._all[process.pid] = process
        if self._is_running:
            self._wind(process)
        return process

    def give_input(self, process: Process, data: bytes) -> None:
        """Write to the input of a program, which reads it at once. Raises GuestError."""
        if not process.takes_input:
            raise GuestError("internal", f"stdin of process {process.pid} is not enabled or closed")
        if process.ends_in_s is None:
            process.write("stdout", data)
            self._note_change()

    def close_input(self, process: Process) -> None:
        """Close the input of a program. Idempotent."""
        process.takes_input = False
        if process.ends_in_s is None:
            self._unwind(process)
            process.ends_in_s = self._draw_s()
            if self._is_running:
                self._wind(process)

    def signal(self, process: Process, number: int) -> None:
        """Send a signal. Raises GuestError."""
        if number in _ENDING_SIGNALS and (number == _SIGKILL or not process.is_stopped):
            self._end(process, (-1, number))
        elif number in (_SIGSTOP, _SIGCONT):
            self._unwind(process)
            process.is_stopped = number == _SIGSTOP
            if self._is_running:
                self._wind(process)
        elif number not in _ENDING_SIGNALS:
            raise GuestError("unimplemented", f"signal {number} is not supported")

    def _wind(self, process: Process) -> None:
        """Set the timer of what happens to a process next."""
        ends, limit = process.ends_in_s, process.killed_in_s
        if process.ended is not None:
            due_s = process.forgotten_in_s
        else:
            due_s = min(
                (s for s in (None if process.is_stopped else ends, limit) if s is not None), default=None
            )
        if due_s is not None:
            loop = asyncio.get_running_loop()
            self._timers[process.pid] = (loop.time(), loop.call_later(due_s, self._ring, process))

    def _unwind(self, process: Process) -> None:
        """Stop its timer and count the time that it has run."""
        if (timer := self._timers.pop(process.pid, None)) is not None:
            began_at, handle = timer
            handle.cancel()
            ran_s = asyncio.get_running_loop().time() - began_at
            if process.ended is not None:
                process.forgotten_in_s = max(0.0, process.forgotten_in_s - ran_s)
                return
            if process.ends_in_s is not None and not process.is_stopped:
                process.ends_in_s = max(0.0, process.ends_in_s - ran_s)
            if process.killed_in_s is not None:
                process.killed_in_s = max(0.0, process.killed_in_s - ran_s)

    def _ring(self, process: Process) -> None:
        self._unwind(process)
        if process.ended is not None:
            self._all.pop(process.pid, None)
        elif process.killed_in_s is not None and process.killed_in_s <= _ROUNDING_S:
            process.is_overdue = True
            self._end(process, (-1, _SIGKILL))
        else:
            self._end(process, (process.exit_code, 0))

    def _end(self, process: Process, how: tuple[int, int]) -> None:
        self._unwind(process)
        process.ended = how
        if self._is_running:
            self._wind(process)
        self._note_change()


def _true(process: Process, args: list[str], envs: Mapping[str, str], cwd: str, tree: Tree) -> None:
    del process, args, envs, cwd, tree


def _false(process: Process, args: list[str], envs: Mapping[str, str], cwd: str, tree: Tree) -> None:
    del args, envs, cwd, tree
    process.exit_code = 1


def _echo(process: Process, args: list[str], envs: Mapping[str, str], cwd: str, tree: Tree) -> None:
    del envs, cwd, tree
    process.write("stdout", " ".join(args).encode() + b"\n")


def _printenv(process: Process, args: list[str], envs: Mapping[str, str], cwd: str, tree: Tree) -> None:
    del cwd, tree
    for name in args:
        if name in envs:
            process.write("stdout", envs[name].encode() + b"\n")
        else:
            process.exit_code = 1


def _cat(process: Process, args: list[str], envs: Mapping[str, str], cwd: str, tree: Tree) -> None:
    del envs
    if not args and process.takes_input:
        process.ends_in_s = None
    for name in args:
        try:
            process.write("stdout", tree.read(posixpath.join(cwd, name)))
        except GuestError as error:
            what = "No such file or directory" if error.code == "not_found" else "Is a directory"
            process.write("stderr", f"cat: {name}: {what}\n".encode())
            process.exit_code = 1


def _sleep(process: Process, args: list[str], envs: Mapping[str, str], cwd: str, tree: Tree) -> None:
    del envs, cwd, tree
    try:
        process.ends_in_s = sum(float(arg) for arg in args)
    except ValueError:
        process.write("stderr", f"sleep: invalid time interval '{args[0]}'\n".encode())
        process.exit_code = 1


_Program = Callable[[Process, list[str], Mapping[str, str], str, Tree], None]
_PROGRAMS: Final[Mapping[str, _Program]] = {
    "cat": _cat,
    "echo": _echo,
    "false": _false,
    "printenv": _printenv,
    "sleep": _sleep,
    "true": _true,
}
