"""CPU time and memory of a process, as /proc shows them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.base.units import KIB
from wrenn.linux.kernel_files import read_kernel_file
from wrenn.linux.process import ProcessRef

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_B: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """CPU time of a process since it began, user and system together, and its resident memory."""

    cpu_s: float
    resident_b: int


def read_usage(process: ProcessRef) -> ProcessUsage | None:
    """Return the usage of the process; None if it has ended."""
    try:
        stat = read_kernel_file(f"/proc/{process.pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name is in parentheses and may contain any characters, including parentheses.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if int(fields[19]) != process.start_ticks:
        return None
    return ProcessUsage((int(fields[11]) + int(fields[12])) * _TICK_S, int(fields[21]) * _PAGE_B)


def read_proportional_b(process: ProcessRef) -> int | None:
    """Return the resident memory of the process in bytes, with shared pages divided among those who share them; None if it has ended.

    The kernel walks all its pages: this takes about a millisecond for each gigabyte.
    """
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    line = next((line for line in rollup.splitlines() if line.startswith("Pss:")), None)
    return None if line is None or not process.is_alive() else int(line.split()[1]) * KIB


def with_descendants(process: ProcessRef) -> list[ProcessRef]:
    """Return the process and those that it started, directly or not."""
    found: list[ProcessRef] = []
    pending = [process]
    while pending:
        parent = pending.pop()
        found.append(parent)
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{parent.pid}/task").glob("*/children"):
                pids = children.read_text().split()
                pending += [ref for pid in pids if (ref := ProcessRef.of(int(pid))) is not None]
    return found


def total_usage(processes: Iterable[ProcessRef]) -> ProcessUsage:
    """Return the sum over these processes, without those that have ended."""
    usages = [usage for process in processes if (usage := read_usage(process)) is not None]
    return ProcessUsage(sum(usage.cpu_s for usage in usages), sum(usage.resident_b for usage in usages))
