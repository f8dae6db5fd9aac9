"""Writes the stacks of all threads and tasks to standard error on request, to diagnose a program that hangs."""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import sys
from typing import Final

SIGNAL: Final = signal.SIGUSR1


def dump_stacks_on_signal() -> None:
    """Write all stacks on SIGUSR1; those of threads even if the event loop is blocked. Call it in the event loop."""
    asyncio.get_running_loop().add_signal_handler(SIGNAL, _dump_tasks)
    faulthandler.register(SIGNAL, chain=True)


def limit_end(limit_s: float) -> None:
    """Write the stacks and exit with status 1 if the process has not exited by itself within `limit_s` seconds.

    For the clean-up at a program's end: a service manager would wait, and then kill it without a word about the reason.
    """
    faulthandler.dump_traceback_later(limit_s, exit=True)


def _dump_tasks() -> None:
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)
    sys.stderr.flush()
