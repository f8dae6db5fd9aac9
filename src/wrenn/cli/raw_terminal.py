"""The terminal that this program runs in: raw while a block runs, and as it was before on every way out."""

from __future__ import annotations

import os
import signal
import termios
import tty
from collections.abc import Generator
from contextlib import contextmanager

from wrenn.cli.following import leaving_on_signals


@contextmanager
def raw(terminal: int) -> Generator[None]:
    """Keys arrive one by one and mean nothing here. A signal that ends this program ends the block first."""
    before = termios.tcgetattr(terminal)
    with leaving_on_signals():
        try:
            # What was typed ahead is kept.
            tty.setraw(terminal, termios.TCSADRAIN)
            yield
        finally:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _go_on(_number: int, _frame: object) -> None:
    """The descriptor says it."""


def size(terminal: int) -> tuple[int, int]:
    """Columns and rows; the usual 80 and 24 where the terminal does not know them."""
    found = os.get_terminal_size(terminal)
    return found.columns or 80, found.lines or 24


@contextmanager
def woken_by(number: signal.Signals) -> Generator[int]:
    """A descriptor that can be read whenever this signal came."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    former_wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    former = signal.signal(number, _go_on)
    try:
        yield reading
    finally:
        signal.signal(number, former)
        signal.set_wakeup_fd(former_wakeup)
        os.close(reading)
        os.close(writing)
