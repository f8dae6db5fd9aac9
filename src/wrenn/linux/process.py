"""Processes that are not our children: named by pid and start time, awaited and signalled through a pidfd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """One process for ever: a pid is used again, a pid with its start time is not.

    Attributes:
        pid: process id in the root pid namespace.
        start_ticks: field 22 of /proc/PID/stat, clock ticks since boot.
    """

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessRef | None:
        """The reference of a living process, or None when there is none (a zombie counts as none)."""
        seen = _stat(pid)
        return None if seen is None or seen[0] in "ZX" else cls(pid, seen[1])

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        return ProcessRef.of(self.pid) == self

    def open_pidfd(self) -> int | None:
        """A pidfd of this very process, a zombie too, or None when it is gone. The caller closes it."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        seen = _stat(self.pid)
        if seen is not None and seen[1] == self.start_ticks:
            return fd  # checked after opening: from here on the descriptor cannot mean another process
        os.close(fd)
        return None

    def kill(self) -> None:
        """Send SIGKILL; a process that is gone is fine."""
        fd = self.open_pidfd()
        if fd is None:
            return
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        finally:
            os.close(fd)

    async def wait_exit(self) -> int | None:
        """Return when the process has ended; reaps it if it is our child. Waits without limit: give a deadline.

        Returns its exit code, or minus the number of the signal that ended it; None when it is not our child or somebody
        else has reaped it.
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
        # Only now: the leader of a process is a zombie before its last thread has ended, and cannot be reaped yet.
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
    # The command name is in parentheses and may hold anything, also parentheses.
    fields = stat[stat.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


async def kill_and_wait(process: ProcessRef, *, timeout_s: float) -> None:
    """End the process with SIGKILL and wait until it is gone.

    Raises:
        TimeoutError: it did not go (a process in uninterruptible sleep).
    """
    process.kill()
    async with asyncio.timeout(timeout_s):
        await process.wait_exit()
