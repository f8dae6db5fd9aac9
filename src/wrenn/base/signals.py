"""Which signals end a program, and how they are handled."""

from __future__ import annotations

import signal
from types import FrameType


def leave_signals_to_uvicorn() -> None:
    """From now on let only uvicorn handle SIGTERM and SIGINT.

    uvicorn shuts down on them and then raises them again for the previous handler. The default handler would
    then terminate the program before its own clean-up has run. Call this just before uvicorn starts: until
    then the default, which is to terminate at once, is right, because nobody else handles the signals.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _nothing)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    pass
