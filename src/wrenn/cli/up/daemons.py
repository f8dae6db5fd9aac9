"""A background program: started in its own session, identified by pid and start time, stopped with a deadline."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from wrenn.base.errors import Forbidden
from wrenn.cli.up.layout import Layout, write_private
from wrenn.linux.process import ProcessRef, kill_and_wait

KILL_TIMEOUT_S: Final = 10.0
_MODULE: Final = ["-m", "wrenn.cli.main"]
LOG_LIMIT_B: Final = 32 * 1024 * 1024
"""A log larger than this is renamed to `.1` at the program's next start."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """One of our programs. `stop_timeout_s`: how long it may take to exit by itself."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    stop_timeout_s: float = 40.0

    def start(self, layout: Layout) -> ProcessRef:
        """Start the program. Returns at once; the program may still fail afterwards."""
        log = layout.log(self.name)
        if log.exists() and log.stat().st_size > LOG_LIMIT_B:
            log.replace(log.with_suffix(".log.1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *_MODULE, *self.arguments],
            {**os.environ, **self.environment},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        process = ProcessRef.of(pid)
        if process is None:  # it has exited already; its log has the reason
            os.waitpid(pid, 0)
            return ProcessRef(pid, -1)
        record(layout.pid_file(self.name), process)
        return process


def record(path: Path, process: ProcessRef) -> None:
    """Write a pid file."""
    write_private(path, json.dumps({"pid": process.pid, "start_ticks": process.start_ticks}) + "\n")


def running(layout: Layout, program: str) -> ProcessRef | None:
    """Return the process of a program of this data folder, from its pid file, or by its command line if that is lost.

    Raises:
        Forbidden: the programs belong to another user.
    """
    return _by_pid_file(layout, program) or _by_command_line(layout, program)


def _by_pid_file(layout: Layout, program: str) -> ProcessRef | None:
    path = layout.pid_file(program)
    try:
        fields = cast("dict[str, int]", json.loads(path.read_text()))
        process = ProcessRef(fields["pid"], fields["start_ticks"])
    except PermissionError as error:
        raise Forbidden(
            f"{path} belongs to another user: run the command as the user of `wrenn up`, root."
        ) from error
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return process if process.is_alive() else None


def _by_command_line(layout: Layout, program: str) -> ProcessRef | None:
    """Find a program of this data folder by the command line that `Daemon.start` gives it.

    Only processes of this user count, with the same root folder: anybody can run a program with these arguments, and a container has
    another folder of this name.
    """
    root = Path("/").stat()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            process = ProcessRef.of(int(entry.name))
            if entry.stat().st_uid != os.geteuid() or not os.path.samestat((entry / "root").stat(), root):
                continue
            arguments = os.fsdecode((entry / "cmdline").read_bytes()).split("\0")[1:-1]
            if process is None or arguments[: len(_MODULE)] != _MODULE:
                continue
            environment = os.fsdecode((entry / "environ").read_bytes()).split("\0")
        except OSError:  # it ended meanwhile, or belongs to another user
            continue
        name, *options = arguments[len(_MODULE) :] or [""]
        if name == "agent" and options[:1] == ["join"]:  # not the agent
            continue
        if name == "supervise" and options[:1] == ["--data-dir"] and len(options) > 1:
            found, folder = "supervisor", options[1]
        else:
            places = [value.partition("=")[2] for value in environment if value.startswith("WRENN_DATA_DIR=")]
            found, folder = name, (places or [""])[0]
        if found == program and folder and Path(folder).resolve() == layout.data_dir.resolve():
            return process
    return None


async def stop(process: ProcessRef, *, timeout_s: float) -> bool:
    """Ask the process to exit, and kill it after `timeout_s`. Returns whether it exited by itself."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        if (
            not process.is_alive()
        ):  # checked after opening: from here on the descriptor cannot refer to another process
            return True
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
    except ProcessLookupError:
        return True
    finally:
        os.close(descriptor)
    try:
        async with asyncio.timeout(timeout_s):
            await process.wait_exit()
    except TimeoutError:
        await kill_and_wait(process, timeout_s=KILL_TIMEOUT_S)
        return False
    return True


def end_of_log(path: Path, lines: int = 15) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            text = file.read().decode(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:])
