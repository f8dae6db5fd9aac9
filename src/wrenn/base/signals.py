"""Which signals end a program, and through whom."""

from __future__ import annotations

import signal
from types import FrameType


def leave_to_server() -> None:
    """From now on SIGTERM and SIGINT are the HTTP server's alone.

    uvicorn ends on them and then raises them again for whoever handled them before. By default that would end the program
    on the spot, its own clean-up cut off. Call this when the server is about to take over: until then the default, to end
    at once, is right, because nobody else listens.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _nothing)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    pass
