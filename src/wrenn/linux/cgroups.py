"""One cgroup for each VMM with limits of memory, CPU, block I/O and number of processes; cgroup v2 or v1, whichever is mounted.

The name of a group is a path such as `wrenn-0/cl-…`. On v1 the same path is created in the hierarchy of each
controller.
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
_IO: Final = {False: "blkio", True: "io"}
"""Name of the block I/O controller on v1 and v2. Unlike the other controllers it is optional."""
_REMOVE_POLL_S: Final = 0.01
_CPU_PERIOD_US: Final = 100_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for all processes of a group together.

    Attributes:
        weight: share of CPU and disk under contention, 1…10,000; the default is 100.
        io_b_per_s: limit for reads and for writes of `io_device` ("MAJOR:MINOR"); 0: no limit.
    """

    memory_b: int
    cpus: float
    pids: int
    weight: int = 100
    io_b_per_s: int = 0
    io_device: str = ""


@cache
def _hierarchies() -> dict[str, Path]:
    """Return the mount point of each controller; on v2 all are the same hierarchy."""
    if (_ROOT / "cgroup.controllers").exists():
        available = (_ROOT / "cgroup.controllers").read_text().split()
        return {c: _ROOT for c in (*_CONTROLLERS, _IO[True]) if c in available}
    names = (*_CONTROLLERS, _IO[False])
    return {c: _ROOT / c for c in names if (_ROOT / c / "cgroup.procs").exists()}


def _directories(name: str) -> list[Path]:
    return sorted({root / name for root in _hierarchies().values()})


def _is_v2() -> bool:
    return _ROOT in _hierarchies().values()


def available_controllers() -> list[str]:
    """Return the controllers that this machine has."""
    return sorted(_hierarchies())


def missing_controllers() -> list[str]:
    """Return the required controllers that this machine lacks."""
    return [name for name in _CONTROLLERS if name not in _hierarchies()]


@dataclass(frozen=True, slots=True)
class Setting:
    """A file of a group and the value to write. If one with `is_needed` is missing, the group cannot be created."""

    controller: str
    file: str
    value: str
    is_needed: bool = True


_V1_SHARES: Final = 1024
"""Value of v1's `cpu.shares` that corresponds to weight 100 of v2."""


def plan_settings(limits: Limits, *, v2: bool) -> list[Setting]:
    """Return the values to write for these limits."""
    quota = int(limits.cpus * _CPU_PERIOD_US)
    io, device, rate = _IO[v2], limits.io_device, limits.io_b_per_s
    if v2:
        settings = [
            Setting("memory", "memory.max", str(limits.memory_b)),
            Setting("cpu", "cpu.max", f"{quota} {_CPU_PERIOD_US}"),
            Setting("pids", "pids.max", str(limits.pids)),
            Setting("cpu", "cpu.weight", str(limits.weight), is_needed=False),
            Setting(io, "io.weight", f"default {limits.weight}", is_needed=False),
        ]
        if rate and device:
            settings.append(Setting(io, "io.max", f"{device} rbps={rate} wbps={rate}", is_needed=False))
        return settings
    settings = [
        Setting("memory", "memory.limit_in_bytes", str(limits.memory_b)),
        Setting("cpu", "cpu.cfs_quota_us", str(quota)),
        Setting("pids", "pids.max", str(limits.pids)),
        Setting("cpu", "cpu.shares", str(max(2, limits.weight * _V1_SHARES // 100)), is_needed=False),
        Setting(io, "blkio.bfq.weight", str(min(1000, limits.weight)), is_needed=False),
    ]
    if rate and device:
        for file in ("blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device"):
            settings.append(Setting(io, file, f"{device} {rate}", is_needed=False))
    return settings


def disk_of(path: Path) -> str:
    """Return the disk that contains `path` as "MAJOR:MINOR": the whole device, not a partition, as block I/O limits need it. Empty for tmpfs."""
    number = path.stat().st_dev
    entry = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not entry.exists():
        return ""
    entry = entry.resolve()
    whole = entry.parent if (entry / "partition").exists() else entry
    return (whole / "dev").read_text().strip()


def create(name: str, limits: Limits) -> list[Path]:
    """Create the group and set its limits. Returns the `cgroup.procs` files; a process joins by writing `0` to each.

    Idempotent.
    """
    directories = _directories(name)
    for directory in directories:
        if _is_v2():
            _enable_v2(directory)
        directory.mkdir(parents=True, exist_ok=True)
    for setting in plan_settings(limits, v2=_is_v2()):
        root = _hierarchies().get(setting.controller)
        if root is None:
            continue
        file = root / name / setting.file
        if setting.is_needed:
            file.write_text(setting.value)
        else:
            with contextlib.suppress(
                OSError
            ):  # the disk's scheduler has no weights, or the device cannot be limited
                file.write_text(setting.value)
    for directory in directories:
        for file, value in (("memory.swap.max", 0), ("memory.memsw.limit_in_bytes", limits.memory_b)):
            with contextlib.suppress(OSError):  # exists only if the kernel accounts swap
                if (directory / file).exists():
                    (directory / file).write_text(str(value))
    return [directory / "cgroup.procs" for directory in directories]


def _enable_v2(directory: Path) -> None:
    """Enable the controllers in every parent, from the root down."""
    wanted = " ".join(f"+{c}" for c in _hierarchies())
    for parent in reversed(directory.relative_to(_ROOT).parents):
        group = _ROOT / parent
        group.mkdir(exist_ok=True)
        (group / "cgroup.subtree_control").write_text(wanted)


def exists(name: str) -> bool:
    """Whether the group exists."""
    return any(directory.is_dir() for directory in _directories(name))


def members(name: str) -> list[int]:
    """Return the pids in the group and the groups below it; empty if it does not exist."""
    pids: set[int] = set()
    for directory in _directories(name):
        for procs in directory.rglob("cgroup.procs"):
            with contextlib.suppress(FileNotFoundError, OSError):
                pids.update(int(line) for line in procs.read_text().split())
    return sorted(pids)


def children(name: str) -> list[str]:
    """Return the names of the groups directly below `name`."""
    found: set[str] = set()
    for directory in _directories(name):
        with contextlib.suppress(FileNotFoundError):
            found.update(entry.name for entry in directory.iterdir() if entry.is_dir())
    return sorted(found)


def remove_if_empty(name: str) -> None:
    """Remove the group and the groups below it, unless they contain processes."""
    for directory in _directories(name):
        groups = [group for group in directory.rglob("*") if group.is_dir()]
        for group in (*sorted(groups, reverse=True), directory):
            with contextlib.suppress(OSError):
                group.rmdir()


async def remove(name: str, *, timeout_s: float) -> None:
    """Kill the processes in the group and remove it. A missing group is ignored.

    Raises:
        TimeoutError: its processes did not end.
    """
    async with asyncio.timeout(timeout_s):
        for directory in _directories(name):
            while not _try_remove(directory):
                for pid in members(name):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                # A dead process stays in its group until it is reaped, for which v1 has no event.
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
