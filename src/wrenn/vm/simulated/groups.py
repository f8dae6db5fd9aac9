"""Finds processes again by the name of their sandbox: what cgroups are for real VMMs. Limits nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from wrenn.linux.process import ProcessRef, kill_and_wait
from wrenn.linux.spawn import Confinement
from wrenn.vm.driver import Shape

_KILL_TIMEOUT_S: Final = 10.0


class ProcessGroups:
    """One file per sandbox with its process. See `wrenn.agent.confinement.Confiner`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def confine(
        self, name: str, slot_index: int, shape: Shape, *, file_size_b: int, io_b_per_s: int = 0
    ) -> Confinement:
        """Say into which file the process is written before it runs."""
        del slot_index, shape, io_b_per_s
        file = self._folder / name
        file.touch()
        return Confinement(uid=0, cgroup_procs=(file,), file_size_b=file_size_b)

    async def release(self, name: str) -> None:
        """Kill what is left of `name`, wait until it is gone, and forget it."""
        file = self._folder / name
        if (process := read_process(file)) is not None:
            await kill_and_wait(process, timeout_s=_KILL_TIMEOUT_S)
        file.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Who has a process, or had one."""
        return sorted(path.name for path in self._folder.iterdir())

    def raise_file_limit(self, process: ProcessRef, size_b: int, *, at_least_b: int) -> bool:
        """Nothing is forbidden."""
        del process, size_b, at_least_b
        return True


def write_process(file: Path, process: ProcessRef) -> None:
    """Note a process, whole or not at all."""
    scratch = file.with_name(f".{file.name}")
    scratch.write_text(f"{process.pid} {process.start_ticks}")
    scratch.rename(file)


def read_process(file: Path) -> ProcessRef | None:
    """The process that was noted, alive or not; None when none was."""
    try:
        pid, start_ticks = file.read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return ProcessRef(int(pid), int(start_ticks))
