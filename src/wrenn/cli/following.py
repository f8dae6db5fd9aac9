"""Forwards input and output of a process, and handles Ctrl-C meanwhile."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn

if TYPE_CHECKING:
    from wrenn.sdk import ProcessStream
    from wrenn.sdk.types import Signal

_READ_B: Final = 64 * 1024
_BY_PRESS: Final[tuple[Signal, ...]] = ("SIGINT", "SIGKILL")
"""The signals for the first and the second Ctrl-C."""


@contextmanager
def exit_on_signals() -> Generator[None]:
    """Let SIGTERM and SIGHUP raise SystemExit, so that blocks are exited in order: the command is killed, a sandbox is removed."""
    former = {number: signal.signal(number, _exit) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _exit(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def interrupt_on_ctrl_c(stream: ProcessStream) -> Generator[None]:
    """Let Ctrl-C send SIGINT to the process, the second one SIGKILL; a third one leaves the process as it is.

    The platform is called from a thread, since the main thread may be waiting for output or for a slow
    reader.
    """
    presses: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    count = 0

    def press(_number: int, _frame: object) -> None:
        nonlocal count
        count += 1
        if count > len(_BY_PRESS):
            raise SystemExit(128 + signal.SIGINT)
        # The only kind of queue that may be used in a signal handler.
        presses.put(count - 1)

    def send() -> None:
        while (index := presses.get()) is not None:
            _signal(stream, _BY_PRESS[index])

    former = signal.signal(signal.SIGINT, press)
    sending = threading.Thread(target=send, name="wrenn-interrupts", daemon=True)
    sending.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
        presses.put(None)


def _signal(stream: ProcessStream, name: Signal) -> None:
    from wrenn.sdk import WrennError

    try:
        stream.signal(name)
    except WrennError as error:
        sys.stderr.write(f"wrenn: {name} was not sent: {error}\n")


def feed_stdin(stream: ProcessStream) -> None:
    """Forward standard input to the process in a thread, including its end.

    No more is read than the process takes. The thread ends with this program: a read from a terminal cannot
    be interrupted.
    """
    threading.Thread(target=_feed, args=(stream, sys.stdin.buffer), name="wrenn-stdin", daemon=True).start()


def _feed(stream: ProcessStream, source: BinaryIO) -> None:
    from wrenn.sdk import WrennError

    try:
        while chunk := _read(source):
            stream.send_stdin(chunk)
        stream.close_stdin()
    except WrennError:
        return  # The command has ended or the connection broke: `copy_out` reports which.


def _read(source: BinaryIO) -> bytes:
    try:
        return os.read(source.fileno(), _READ_B)
    except OSError as error:
        sys.stderr.write(f"wrenn: Standard input cannot be read: {error.strerror}.\n")
        return b""


def copy_out(stream: ProcessStream) -> int:
    """Write the output of the process to standard output and error until its end; returns its exit code."""
    ours = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer, "pty": sys.stdout.buffer}
    for output in stream:
        ours[output.stream].write(output.data)
        ours[output.stream].flush()
    assert stream.exit_code is not None, "the output ends with the exit code"
    return stream.exit_code
