"""The local terminal: switched to raw mode while a block runs, and always restored."""

from __future__ import annotations

import os
import signal
import termios
import tty
from collections.abc import Generator
from contextlib import contextmanager

from wrenn.cli.following import exit_on_signals


@contextmanager
def raw(terminal: int) -> Generator[None]:
    """Put the terminal into raw mode within the block. A signal that ends this program ends the block first."""
    before = termios.tcgetattr(terminal)
    with exit_on_signals():
        try:
            # Keep what was typed ahead.
            tty.setraw(terminal, termios.TCSADRAIN)
            yield
        finally:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _ignore(_number: int, _frame: object) -> None:
    """Nothing to do: the signal is read from the descriptor."""


def size(terminal: int) -> tuple[int, int]:
    """Return columns and rows; 80 and 24 if the terminal does not report them."""
    found = os.get_terminal_size(terminal)
    return found.columns or 80, found.lines or 24


@contextmanager
def signal_descriptor(number: signal.Signals) -> Generator[int]:
    """Yield a descriptor that becomes readable whenever the signal arrives."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    former_wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    former = signal.signal(number, _ignore)
    try:
        yield reading
    finally:
        signal.signal(number, former)
        signal.set_wakeup_fd(former_wakeup)
        os.close(reading)
        os.close(writing)
