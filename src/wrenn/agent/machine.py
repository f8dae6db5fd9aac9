"""Measures the machine: CPU cores, memory and disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.base.units import KIB
from wrenn.linux.disk_space import free_b, total_b

_MEMINFO: Final = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine's size and free resources."""

    cpu_cores: int
    memory_b: int
    memory_available_b: int
    disk_b: int
    disk_available_b: int


def measure(data_dir: Path) -> Machine:
    """Measure the machine; disk figures are for the file system of `data_dir`."""
    meminfo = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())

    def kilobytes(name: str) -> int:
        return int(meminfo[name].split()[0]) * KIB

    return Machine(
        cpu_cores=len(os.sched_getaffinity(0)),
        memory_b=kilobytes("MemTotal"),
        memory_available_b=kilobytes("MemAvailable"),
        disk_b=total_b(data_dir),
        disk_available_b=free_b(data_dir),
    )
