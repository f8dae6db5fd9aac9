"""Memory of processes, from /proc."""

from __future__ import annotations

from pathlib import Path


def smaps_kb(pid: int) -> dict[str, int]:
    """The sums of /proc/PID/smaps_rollup, in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}


def resident_kb(pid: int) -> int:
    """VmRSS of a process in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def guest_private_kb(pid: int, memory_mb: int) -> int:
    """Private pages of the guest's RAM: those of the mapping whose size is the guest's memory."""
    size_kb = memory_mb * 1024
    private = 0
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head = line.split()
        if not head[0].endswith(":"):
            first, last = (int(part, 16) for part in head[0].split("-"))
            inside = (last - first) // 1024 == size_kb
        elif inside and head[0] in ("Private_Dirty:", "Private_Clean:"):
            private += int(head[1])
    return private
