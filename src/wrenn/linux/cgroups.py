"""One cgroup per VMM with limits of memory, CPU and number of processes; cgroup v2 or v1, whichever the machine has.

A group's name is a path such as `wrenn-0/cl-…`. On v1 the same path is made in each controller's hierarchy.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")
_CONTROLLERS: Final = ("memory", "cpu", "pids")
_REMOVE_POLL_S: Final = 0.01
_CPU_PERIOD_US: Final = 100_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What the processes of a group may take together."""

    memory_b: int
    cpus: float
    pids: int


@cache
def _hierarchies() -> dict[str, Path]:
    """Controller -> mount point; on v2 all three are the one hierarchy."""
    if (_ROOT / "cgroup.controllers").exists():
        available = (_ROOT / "cgroup.controllers").read_text().split()
        return {c: _ROOT for c in _CONTROLLERS if c in available}
    return {c: _ROOT / c for c in _CONTROLLERS if (_ROOT / c / "cgroup.procs").exists()}


def _directories(name: str) -> list[Path]:
    return sorted({root / name for root in _hierarchies().values()})


def _is_v2() -> bool:
    return _ROOT in _hierarchies().values()


def available_controllers() -> list[str]:
    """Which of memory, cpu and pids can be limited on this machine."""
    return sorted(_hierarchies())


def create(name: str, limits: Limits) -> list[Path]:
    """Make the group and set its limits; returns the `cgroup.procs` files a process joins by writing `0` to each.

    May be called again for the same name.
    """
    directories = _directories(name)
    for directory in directories:
        if _is_v2():
            _enable_v2(directory)
        directory.mkdir(parents=True, exist_ok=True)
    quota = int(limits.cpus * _CPU_PERIOD_US)
    if _is_v2():
        values = {
            "memory": ("memory.max", limits.memory_b),
            "cpu": ("cpu.max", f"{quota} {_CPU_PERIOD_US}"),
            "pids": ("pids.max", limits.pids),
        }
    else:
        values = {
            "memory": ("memory.limit_in_bytes", limits.memory_b),
            "cpu": ("cpu.cfs_quota_us", quota),
            "pids": ("pids.max", limits.pids),
        }
    for controller, root in _hierarchies().items():
        file, value = values[controller]
        (root / name / file).write_text(str(value))
    for directory in directories:
        for file, value in (("memory.swap.max", 0), ("memory.memsw.limit_in_bytes", limits.memory_b)):
            with contextlib.suppress(OSError):  # only where the kernel accounts swap
                if (directory / file).exists():
                    (directory / file).write_text(str(value))
    return [directory / "cgroup.procs" for directory in directories]


def _enable_v2(directory: Path) -> None:
    """Turn the controllers on in every parent, from the root down."""
    wanted = " ".join(f"+{c}" for c in _hierarchies())
    for parent in reversed(directory.relative_to(_ROOT).parents):
        group = _ROOT / parent
        group.mkdir(exist_ok=True)
        (group / "cgroup.subtree_control").write_text(wanted)


def exists(name: str) -> bool:
    """Whether there is such a group."""
    return any(directory.is_dir() for directory in _directories(name))


def members(name: str) -> list[int]:
    """Pids in the group or in groups below it; empty when it does not exist."""
    pids: set[int] = set()
    for directory in _directories(name):
        for procs in directory.rglob("cgroup.procs"):
            with contextlib.suppress(FileNotFoundError, OSError):
                pids.update(int(line) for line in procs.read_text().split())
    return sorted(pids)


def children(name: str) -> list[str]:
    """Names of the groups directly below `name`."""
    found: set[str] = set()
    for directory in _directories(name):
        with contextlib.suppress(FileNotFoundError):
            found.update(entry.name for entry in directory.iterdir() if entry.is_dir())
    return sorted(found)


def remove_if_empty(name: str) -> None:
    """Remove the group and the groups below it, as far as no process is in them."""
    for directory in _directories(name):
        groups = [group for group in directory.rglob("*") if group.is_dir()]
        for group in (*sorted(groups, reverse=True), directory):
            with contextlib.suppress(OSError):
                group.rmdir()


async def remove(name: str, *, timeout_s: float) -> None:
    """Kill what is in the group and remove it. A missing group is fine.

    Raises:
        TimeoutError: its processes did not end.
    """
    async with asyncio.timeout(timeout_s):
        for directory in _directories(name):
            while not _try_remove(directory):
                for pid in members(name):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                # A dead process stays in its group until it is reaped; there is no event for that on v1.
                await asyncio.sleep(_REMOVE_POLL_S)


def _try_remove(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    return True
