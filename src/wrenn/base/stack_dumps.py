"""Where a program that hangs stands: the stacks of its threads and tasks, written to standard error on request."""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import sys
from typing import Final

SIGNAL: Final = signal.SIGUSR1


def dump_stacks_on_signal() -> None:
    """From now on SIGUSR1 writes all stacks; those of the threads even when the event loop stands still. Call it in the loop."""
    asyncio.get_running_loop().add_signal_handler(SIGNAL, _dump_tasks)
    faulthandler.register(SIGNAL, chain=True)


def limit_end(limit_s: float) -> None:
    """End this process with status 1, its stacks written first, unless it has ended by itself within `limit_s` seconds.

    For the clean-up at a program's end: a service manager would wait, and then kill it without a word about the reason.
    """
    faulthandler.dump_traceback_later(limit_s, exit=True)


def _dump_tasks() -> None:
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)
    sys.stderr.flush()
