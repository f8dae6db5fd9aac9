"""Shows the steps of a long command: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

REFRESH_S: Final = 0.5
"""How often the elapsed time is updated; shorter steps are shown only when they are done."""


class Progress:
    """Writes progress to standard error, so that standard output has only the results."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._note = ""

    @contextmanager
    def step(self, name: str) -> Generator[None]:
        """Show the step and its elapsed time while the block runs, and its total time at the end."""
        self._note = ""
        started = time.monotonic()
        ended = threading.Event()
        clock = threading.Thread(target=self._draw, args=(name, started, ended), daemon=True)
        clock.start()
        mark = "✗"
        try:
            yield
            mark = "✓"
        finally:
            ended.set()
            clock.join()
            self._write(f"{mark} {name}  {time.monotonic() - started:.1f} s\n")

    def note(self, text: str) -> None:
        """Show a detail of the current step."""
        if self._live:
            self._note = text
        else:
            self._write(f"  {text}\n")

    def _draw(self, name: str, started: float, ended: threading.Event) -> None:
        if ended.wait(REFRESH_S):
            return
        if not self._live:
            self._write(f"… {name}\n")
            return
        while not ended.wait(REFRESH_S):
            note = f": {self._note}" if self._note else ""
            self._write(f"… {name}{note}  {time.monotonic() - started:.0f} s")

    def _write(self, text: str) -> None:
        # On a terminal each line replaces the current one.
        sys.stderr.write(f"\r\x1b[K{text}" if self._live else text)
        sys.stderr.flush()
