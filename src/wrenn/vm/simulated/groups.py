"""Finds processes by the name of their sandbox, as cgroups do for real VMMs, but without limits."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from wrenn.linux.process import ProcessRef, kill_and_wait
from wrenn.linux.spawn import Confinement
from wrenn.vm.driver import Shape

_KILL_TIMEOUT_S: Final = 10.0


class ProcessGroups:
    """One file per sandbox that names its process. Implements `wrenn.agent.confinement.Confiner`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def confine(
        self, name: str, slot_index: int, shape: Shape, *, file_size_b: int, io_b_per_s: int = 0
    ) -> Confinement:
        """Return the file to which the process is written before it runs."""
        del slot_index, shape, io_b_per_s
        file = self._folder / name
        file.touch()
        return Confinement(uid=0, cgroup_procs=(file,), file_size_b=file_size_b)

    async def release(self, name: str) -> None:
        """Kill the process of `name`, wait for its exit, and remove the file."""
        file = self._folder / name
        if (process := read_process(file)) is not None:
            await kill_and_wait(process, timeout_s=_KILL_TIMEOUT_S)
        file.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Return the names that have a process, or had one."""
        return sorted(path.name for path in self._folder.iterdir())

    def raise_file_limit(self, process: ProcessRef, size_b: int, *, at_least_b: int) -> bool:
        """Return True: there are no limits."""
        del process, size_b, at_least_b
        return True


def write_process(file: Path, process: ProcessRef) -> None:
    """Atomically write a process reference to `file`."""
    scratch = file.with_name(f".{file.name}")
    scratch.write_text(f"{process.pid} {process.start_ticks}")
    scratch.rename(file)


def read_process(file: Path) -> ProcessRef | None:
    """Return the process in `file`, alive or not; None if there is none."""
    try:
        pid, start_ticks = file.read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return ProcessRef(int(pid), int(start_ticks))
