"""Connects the local terminal to a terminal in a sandbox."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wrenn.sdk import Terminal

_READ_B: Final = 64 * 1024


def terminal_envs(envs: dict[str, str]) -> dict[str, str]:
    """Return the environment variables for a program in a terminal: `TERM` of the local one, and `envs`."""
    return {"TERM": os.environ.get("TERM", "xterm-256color"), **envs}


def attach(terminal: Terminal, *, timeout_s: float | None = None) -> int:
    """Connect the local terminal to `terminal` until its program ends or the user leaves; returns the exit code.

    Keystrokes and size changes are forwarded. Enter, then `~.` leaves. The local terminal is restored
    afterwards.

    Raises:
        DeadlineExceededError: the program did not end within `timeout_s`; it was killed.
    """
    from wrenn.cli.escape import Escape
    from wrenn.cli.raw_terminal import raw, signal_descriptor, size
    from wrenn.sdk import DeadlineExceededError

    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    escape, failures = Escape(), list[BaseException]()
    ended_reading, ended_writing = os.pipe()
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    is_late = False

    def show() -> None:
        try:
            for data in terminal:
                view = memoryview(data)
                while view:
                    view = view[os.write(screen, view) :]
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that started this one
            failures.append(error)
        finally:
            os.close(ended_writing)

    with raw(keyboard), signal_descriptor(signal.SIGWINCH) as resized:
        showing = threading.Thread(target=show, daemon=True)
        showing.start()
        try:
            while not escape.left:
                left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
                ready, _, _ = select.select([keyboard, resized, ended_reading], [], [], left_s)
                if ended_reading in ready:
                    break
                if is_late := not ready:
                    terminal.kill()
                    break
                if resized in ready:
                    os.read(resized, _READ_B)
                    terminal.resize(*size(keyboard))
                if keyboard in ready:
                    typed = os.read(keyboard, _READ_B)
                    if not typed:
                        break
                    if passed := escape.filter(typed):
                        terminal.send_input(passed)
        finally:
            terminal.close()
            showing.join()
            os.close(ended_reading)
    if is_late:
        raise DeadlineExceededError(f"The command did not end within {timeout_s:g} s and was killed.")
    if terminal.exit_code is not None:
        return terminal.exit_code & 0xFF
    if not escape.left and failures:
        raise failures[0]
    return 0
