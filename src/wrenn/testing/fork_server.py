"""Programs of the project as separate processes that start at once.

To import the control plane takes a process seconds of CPU time. A fork server imports all programs once; each process
is a fork of it, with arguments, environment, standard streams and session of its own. What differs from a process that
was executed is only the command line that the kernel shows. Tests of the start itself, and measurements, execute the
program.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Final, NoReturn

from wrenn.base.gc_tuning import collect_rarely, freeze_gc

_PRELOADED: Final = (
    "wrenn.control.main",
    "wrenn.agent.main",
    "wrenn.testing.simulated_agent",
    "wrenn.cli.main",
    # What the command imports when it is needed.
    "wrenn.sdk._sync.api",
    "wrenn.agent.doctor",
    "rich.live",
    "rich.progress",
    "rich.table",
)
_MAX_REQUEST: Final = 128 << 10
_START_TIMEOUT_S: Final = 60.0
_LOST_OUTPUT: Final = 120
"""The exit code of a Python program whose output could not be written at its end."""


@dataclass(frozen=True, slots=True)
class _Request:
    """What the fork server is asked to run.

    Attributes:
        program: a function without arguments, as `module:function`.
        arguments: what follows the program's name in `sys.argv`.
        environment: the whole environment.
        folder: the working directory.
    """

    program: str
    arguments: list[str]
    environment: dict[str, str]
    folder: str


class ForkedProgram:
    """A process that was forked from the server, with the methods of `subprocess.Popen` that tests use.

    Attributes:
        pid: its process id. It leads a session of its own.
        returncode: as of `subprocess.Popen`; None until `poll` or `wait` has seen its end.
    """

    def __init__(self, pid: int, status: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._read(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it runs on after `timeout` seconds.
        """
        code = self._read(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(["fork", str(self.pid)], timeout or 0)
        return code

    async def wait_ended(self) -> int:
        """Wait for its end without blocking the event loop."""
        return await asyncio.to_thread(self.wait)

    def _read(self, timeout_s: float | None) -> int | None:
        if self.returncode is None and _readable(self._status, timeout_s):
            answer = self._status.recv(64)
            self._status.close()
            assert answer, "the fork server has ended"
            self.returncode = int(answer)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _readable(end: socket.socket, timeout_s: float | None) -> bool:
    waiting = select.poll()
    waiting.register(end, select.POLLIN)
    return bool(waiting.poll(None if timeout_s is None else timeout_s * 1000))


def start_program(
    program: str,
    arguments: Sequence[str] = (),
    *,
    environment: Mapping[str, str],
    folder: Path | None = None,
    stdin: int | IO[bytes] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    source: Path | None = None,
) -> ForkedProgram:
    """Run a program of the project in a process of its own.

    Args:
        program: its main function, as `module:function`.
        arguments: what follows the program's name.
        environment: its whole environment.
        folder: its working directory; None: that of this process.
        stdin: a file or its descriptor; None: the null device.
        stdout: likewise.
        stderr: likewise.
        source: a `src` folder with another release, whose program it is; None: this one's.
    """
    request = _Request(program, list(arguments), dict(environment), str(folder or Path.cwd()))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    null = os.open(os.devnull, os.O_RDWR)
    try:
        streams = [
            null if one is None else one if isinstance(one, int) else one.fileno()
            for one in (stdin, stdout, stderr)
        ]
        socket.send_fds(_server(source), [json.dumps(asdict(request)).encode()], [theirs.fileno(), *streams])
    finally:
        theirs.close()
        os.close(null)
    assert _readable(ours, _START_TIMEOUT_S), "the fork server does not answer"
    return ForkedProgram(int(ours.recv(64)), ours)


async def run_program(
    program: str,
    arguments: Sequence[str] = (),
    *,
    environment: Mapping[str, str],
    folder: Path | None = None,
    stdin: bytes | None = None,
) -> tuple[int, bytes, bytes]:
    """Run a program to its end, as `start_program` does; returns exit code, output and errors.

    `stdin` is what it reads from a pipe; None: it has the null device. A program whose caller is cancelled is killed.
    """
    with ExitStack() as descriptors:

        def pipe() -> tuple[IO[bytes], IO[bytes]]:
            read_end, write_end = os.pipe()
            return (
                descriptors.enter_context(os.fdopen(read_end, "rb")),
                descriptors.enter_context(os.fdopen(write_end, "wb")),
            )

        (given, giving), (reading_out, out), (reading_errors, errors) = pipe(), pipe(), pipe()
        process = start_program(
            program,
            arguments,
            environment=environment,
            folder=folder,
            stdin=None if stdin is None else given,
            stdout=out,
            stderr=errors,
        )
        for end in (given, out, errors):
            end.close()

        def give() -> None:
            # The program need not read it.
            with suppress(BrokenPipeError), giving:
                giving.write(stdin or b"")

        try:
            printed, complained, _ = await asyncio.gather(
                asyncio.to_thread(reading_out.read),
                asyncio.to_thread(reading_errors.read),
                asyncio.to_thread(give),
            )
            return await process.wait_ended(), printed, complained
        finally:
            process.kill()


@cache
def _server(source: Path | None = None) -> socket.socket:
    """Start the server of this test run, for this release or the one in `source`; it ends with the run."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MAX_REQUEST)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            # Threads of a library would not survive a fork.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"} | ({"PYTHONPATH": str(source)} if source else {}),
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _next_request(channel: socket.socket) -> _Request | None:
    """Serve until the test run ends: None. In each forked process: what it is to run."""
    running: dict[int, tuple[int, socket.socket]] = {}
    with selectors.DefaultSelector() as ready:
        ready.register(channel, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is not channel:
                    pid, status = running.pop(key.fd)
                    ready.unregister(key.fd)
                    os.close(key.fd)
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    with status:
                        _report(status, code)
                    continue
                message, descriptors, _, _ = socket.recv_fds(channel, _MAX_REQUEST, 4)
                if not message:
                    return None
                status = socket.socket(fileno=descriptors[0])
                pid = os.fork()
                if pid == 0:
                    request = _Request(**json.loads(message))
                    _become(request, descriptors[1:])
                    for other, (_, status_of_other) in running.items():
                        os.close(other)
                        status_of_other.close()
                    status.close()
                    channel.close()
                    return request
                for descriptor in descriptors[1:]:
                    os.close(descriptor)
                exited = os.pidfd_open(pid)
                running[exited] = (pid, status)
                ready.register(exited, selectors.EVENT_READ)
                _report(status, pid)


def _report(status: socket.socket, number: int) -> None:
    """Report to the test, which may have ended."""
    with suppress(BrokenPipeError, ConnectionResetError):
        status.send(str(number).encode())


def _become(request: _Request, streams: Sequence[int]) -> None:
    """Give this process what one that was executed would have."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, buffering=1 if mode == "w" else -1)  # noqa: PTH123, SIM115 - descriptors, for good
        for number, mode in enumerate(("r", "w", "w"))
    )
    sys.argv = ["wrenn", *request.arguments]


def _main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    collect_rarely()
    for module in _PRELOADED:
        import_module(module)
    # A collection in a forked process would copy all pages.
    freeze_gc()
    request = _next_request(channel)
    if request is not None:
        module, _, function = request.program.partition(":")
        _run_and_exit(getattr(import_module(module), function))


def _run_and_exit(program: Callable[[], object]) -> NoReturn:
    """Run a program and end the process as the interpreter does, but leave its memory to the kernel.

    The interpreter would take all that the fork server has imported apart, object by object, which costs more CPU time than most
    commands.
    """
    try:
        program()
        code = 0
    except SystemExit as ended:
        if ended.code is not None and not isinstance(ended.code, int):
            raise  # the interpreter prints the message
        code = ended.code or 0
    threading._shutdown()  # pyright: ignore[reportPrivateUsage,reportAttributeAccessIssue,reportUnknownMemberType] - waits for threads
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or _LOST_OUTPUT
    os._exit(code & 0xFF)


if __name__ == "__main__":
    _main()
