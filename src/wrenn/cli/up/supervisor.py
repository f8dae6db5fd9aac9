"""Restarts the platform's programs when they exit, with increasing delays.

It adopts programs that an earlier supervisor started, so its own death disturbs nothing. On SIGTERM or SIGINT
it stops the programs too, the control plane first. PostgreSQL is stopped by `wrenn down`, since others may be
using the embedded server.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Final

from wrenn.cli.up import database
from wrenn.cli.up.daemons import Daemon, record, running, stop
from wrenn.cli.up.layout import Layout
from wrenn.cli.up.options import Address
from wrenn.cli.up.services import SUPERVISOR, services
from wrenn.linux.process import ProcessRef

_log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 10.0
STEADY_S: Final = 30.0
"""A program that ran this long is considered stable: the next delay is short again."""


async def supervise(layout: Layout, listen: Address) -> int:
    """Keep all programs running until a signal arrives. Returns the exit code."""
    me = ProcessRef.of(os.getpid())
    assert me is not None, "this process runs"
    other = running(layout, SUPERVISOR)
    if other is not None and other != me:
        _log.error("another supervisor runs", extra={"pid": other.pid})
        return 1
    record(layout.pid_file(SUPERVISOR), me)

    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)

    url = await database.ensure(layout.data_dir)
    daemons = services(layout.data_dir, listen, url)
    tasks = [asyncio.create_task(keep_running(daemon.name, _starter(layout, daemon))) for daemon in daemons]
    if database.external_url(layout.data_dir) is None:
        tasks.append(asyncio.create_task(keep_running("postgres", lambda: _database_process(layout))))
    await end.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for daemon in reversed(daemons):
        await stop_daemon(layout, daemon)
    layout.pid_file(SUPERVISOR).unlink(missing_ok=True)
    return 0


async def stop_daemon(layout: Layout, daemon: Daemon) -> None:
    """Stop a program if it runs."""
    process = running(layout, daemon.name)
    if process is not None and not await stop(process, timeout_s=daemon.stop_timeout_s):
        _log.warning("program did not end by itself and was killed", extra={"program": daemon.name})
    layout.pid_file(daemon.name).unlink(missing_ok=True)


def _starter(layout: Layout, daemon: Daemon) -> Callable[[], Awaitable[ProcessRef]]:
    async def start() -> ProcessRef:
        return running(layout, daemon.name) or daemon.start(layout)

    return start


async def _database_process(layout: Layout) -> ProcessRef:
    await database.ensure(layout.data_dir)
    process = database.process(layout.data_dir)
    if process is None:
        raise RuntimeError("PostgreSQL ended right after its start")
    return process


async def keep_running(name: str, ensure: Callable[[], Awaitable[ProcessRef]]) -> None:
    """Start the program, wait for its end, and repeat. A failed start does not end the loop."""
    pause_s = FIRST_PAUSE_S
    while True:
        started = time.monotonic()
        try:
            process = await ensure()
            _log.info("program runs", extra={"program": name, "pid": process.pid})
            await process.wait_exit()
            _log.warning("program ended", extra={"program": name, "pid": process.pid})
        except Exception:  # noqa: BLE001 - the cause may be gone at the next attempt (disk full, PostgreSQL recovering)
            _log.exception("program could not be started", extra={"program": name})
        steady = time.monotonic() - started > STEADY_S
        pause_s = FIRST_PAUSE_S if steady else min(pause_s * 2, LONGEST_PAUSE_S)
        await asyncio.sleep(pause_s)
