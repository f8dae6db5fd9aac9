"""Shows the progress of a build: a line for each step on a terminal, with the running one below; plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TextIO

from wrenn.cli.output import printable

if TYPE_CHECKING:
    from wrenn.sdk.types import BuildEvent

_TICK_S: Final = 0.2
_SHOWN_AFTER_FAILURE: Final = 20
"""Lines of output of a step that failed, on a terminal."""
_LINE_LIMIT: Final = 4096
"""Characters of a line of output that has not ended yet; a longer one is shown in parts."""


class BuildDisplay:
    """Receives the events of a build. Use it as a context manager, so that the terminal is left clean.

    `live` redraws the last line; otherwise each line of output is written, with the number of its step.
    """

    def __init__(self, out: TextIO | None = None, *, live: bool | None = None) -> None:
        self._out = out or sys.stderr
        self._live = self._out.isatty() if live is None else live
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="build display", daemon=True)
        self._began = time.monotonic()
        self._step_began = 0.0
        self._title = ""
        self._rest: dict[str, str] = {}
        self._recent: deque[str] = deque(maxlen=_SHOWN_AFTER_FAILURE)
        self._steps = self._cached = 0

    def __enter__(self) -> Self:
        if self._live:
            self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._live:
            self._ticker.join()
            self._erase()
            self._out.flush()

    def __call__(self, event: BuildEvent) -> None:
        """Show an event."""
        with self._lock:
            match event.type:
                case "step":
                    self._begin(event)
                case "output":
                    self._output(event)
                case "done":
                    self._done(event)
                case "note":
                    self._write(f"note: {printable(event.text)}")
                case "end":
                    self._end(event)
                case _:
                    pass
            self._out.flush()

    def note(self, text: str) -> None:
        """Show a note of this program."""
        with self._lock:
            self._write(f"note: {printable(text)}")
            self._out.flush()

    def _begin(self, event: BuildEvent) -> None:
        if event.step <= self._steps:
            # Another worker has taken over.
            self._write("note: the build was interrupted and begins again")
            self._steps = self._cached = 0
        first = event.command.strip().partition("\n")
        command = printable(first[0]) + (" …" if first[1] else "")
        phase = "" if event.phase in ("", "recipe") else f" {event.phase}:"
        self._title = f"[{event.step}/{event.total}]{phase} {command}"
        self._step_began = time.monotonic()
        self._rest.clear()
        self._recent.clear()
        if not self._live:
            self._write(f"#{event.step} {self._title}")

    def _output(self, event: BuildEvent) -> None:
        text = self._rest.pop(event.stream, "") + event.text
        *lines, rest = text.split("\n")
        if len(rest) > _LINE_LIMIT:
            lines.append(rest)
            rest = ""
        if rest:
            self._rest[event.stream] = rest
        for line in lines:
            self._line(event.step, line)
        if self._live:
            self._draw()

    def _line(self, step: int, line: str) -> None:
        shown = printable(line.rstrip("\r").rpartition("\r")[2])
        self._recent.append(shown)
        if not self._live:
            self._write(f"#{step} {time.monotonic() - self._step_began:.1f} {shown}".rstrip())

    def _done(self, event: BuildEvent) -> None:
        for line in self._rest.values():
            self._line(event.step, line)
        self._rest.clear()
        seconds = event.elapsed_ms / 1000
        self._steps += 1
        self._cached += event.cached
        outcome = "CACHED" if event.cached else f"{seconds:.1f}s"
        if not event.ok:
            outcome = f"FAILED after {seconds:.1f}s" + (
                f" with exit code {event.exit_code}" if event.exit_code is not None else ""
            )
        if not self._live:
            self._write(f"#{event.step} {outcome if event.cached or not event.ok else 'DONE ' + outcome}")
            return
        title, self._title = self._title, ""
        self._write(_fitted(f" => {title}", outcome))
        if not event.ok:
            for line in self._recent:
                self._write(f"    {line}")

    def _end(self, event: BuildEvent) -> None:
        self._title = ""
        cached = f", {self._cached} cached" if self._cached else ""
        took = f"{time.monotonic() - self._began:.1f}s"
        if event.status == "success":
            self._write(f"Built in {took} ({self._steps} steps{cached})")

    def _write(self, line: str) -> None:
        self._erase()
        self._out.write(line + "\n")

    def _erase(self) -> None:
        if self._live:
            self._out.write("\r\x1b[K")

    def _draw(self) -> None:
        if not self._title:
            return
        elapsed = f"{time.monotonic() - self._step_began:.0f}s"
        latest = next(iter(self._rest.values()), "") or (self._recent[-1] if self._recent else "")
        text = self._title + (f"  {printable(latest)}" if latest else "")
        self._out.write("\r\x1b[K" + _fitted(f" => {text}", elapsed))

    def _tick(self) -> None:
        while not self._ended.wait(_TICK_S):
            with self._lock:
                self._draw()
                self._out.flush()


def _fitted(text: str, right: str) -> str:
    """Return a line as wide as the terminal at most, with `right` at its end."""
    width = shutil.get_terminal_size().columns - 1
    available = max(width - len(right) - 1, 10)
    if len(text) > available:
        text = text[: available - 1] + "…"
    return f"{text:<{available}} {right}"
