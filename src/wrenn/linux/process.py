"""Processes that are not our children: identified by pid and start time, awaited and signalled through a pidfd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """A unique reference to a process: pids are reused, but not together with the same start time.

    Attributes:
        pid: process id in the root pid namespace.
        start_ticks: field 22 of /proc/PID/stat, clock ticks since boot.
    """

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessRef | None:
        """Return the reference of a running process, or None if it does not exist or is a zombie."""
        seen = _stat(pid)
        return None if seen is None or seen[0] in "ZX" else cls(pid, seen[1])

    def is_alive(self) -> bool:
        """Whether this process is still running."""
        return ProcessRef.of(self.pid) == self

    def open_pidfd(self) -> int | None:
        """Open a pidfd of this process, or return None if it no longer exists. Zombies have one. The caller closes it."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        seen = _stat(self.pid)
        if seen is not None and seen[1] == self.start_ticks:
            return fd  # checked after opening: from here on the descriptor cannot refer to another process
        os.close(fd)
        return None

    def kill(self) -> None:
        """Send SIGKILL. Does nothing if the process no longer exists."""
        fd = self.open_pidfd()
        if fd is None:
            return
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        finally:
            os.close(fd)

    def kill_and_reap(self) -> None:
        """Send SIGKILL to our child, wait until it has ended, and reap it. Blocking; for one that has hardly begun and so ends at once."""
        self.kill()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    async def wait_exit(self) -> int | None:
        """Wait until the process has ended, and reap it if it is our child. There is no time limit: set a deadline.

        Returns its exit code, or minus the number of the signal that terminated it. Returns None if it is not
        our child or was reaped by somebody else.
        """
        fd = self.open_pidfd()
        if fd is None:
            return None
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(fd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        # Only now: the main thread of a process becomes a zombie before its last thread has ended, and cannot
        # be reaped before that.
        with contextlib.suppress(ChildProcessError):
            pid, status = os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222 - does not block
            return os.waitstatus_to_exitcode(status) if pid == self.pid else None
        return None


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time of a process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name is in parentheses and may contain any characters, including parentheses.
    fields = stat[stat.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


async def kill_and_wait(process: ProcessRef, *, timeout_s: float) -> None:
    """Send SIGKILL to the process and wait until it has ended.

    Raises:
        TimeoutError: it did not end (a process in uninterruptible sleep).
    """
    process.kill()
    async with asyncio.timeout(timeout_s):
        await process.wait_exit()
