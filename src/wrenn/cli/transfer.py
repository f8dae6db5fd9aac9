"""Shows a progress bar on a terminal while something is copied; nothing elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from wrenn.cli.output import size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Transfer:
    """The progress of one copy. `passed` counts transferred bytes; for a folder, those of its tar archive."""

    def __init__(self, what: str) -> None:
        self.passed = 0
        self._what = what
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
            )
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task(self._what, total=None)
            self._progress.start()
        return self

    def advance(self, passed: int, total: int | None) -> None:
        """Update the progress."""
        self.passed = passed
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=passed, total=total)

    def note_resume(self, at: int) -> None:
        """Report that the connection broke and the copy resumes."""
        line = f"wrenn: The connection broke; going on after {size(at)}."
        if self._progress is not None:
            self._progress.console.print(line, markup=False, highlight=False)
        else:
            sys.stderr.write(f"{line}\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
