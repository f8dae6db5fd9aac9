"""How long the steps of a verb take: the platform with programs that write down when they pass their fault points."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.performance.traced_program import PASSED
from tests.vm.platform import Platform


@dataclass(slots=True)
class Trace:
    """What both programs have logged since the last call of `begin`."""

    logs: tuple[Path, ...]
    _offsets: tuple[int, ...] = ()
    _begun: float = 0.0

    def begin(self) -> None:
        """Forget what was logged so far."""
        self._offsets = tuple(log.stat().st_size for log in self.logs)
        self._begun = time.monotonic()

    def steps_ms(self, *, of: str) -> dict[str, float]:
        """How long each step of the verb took, the first from `begin`, the last (`answer`) until now."""
        passed = [(event["at"], event["point"]) for event in self._events(PASSED)]
        points = sorted((at, point) for at, point in passed if point.split(".")[1] == of)
        moments = [(self._begun, ""), *points, (time.monotonic(), "control.answer")]
        return {point: (at - before) * 1000 for (before, _), (at, point) in pairwise(moments)}

    def event(self, name: str) -> dict[str, Any]:
        """The one event of this name."""
        (event,) = self._events(name)
        return event

    def _events(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for log, offset in zip(self.logs, self._offsets, strict=True):
            with log.open() as text:
                text.seek(offset)
                lines = [json.loads(line) for line in text if line.startswith("{")]
            found += [line for line in lines if line["event"] == name]
        return found


@asynccontextmanager
async def traced(platform: Platform) -> AsyncGenerator[Trace]:
    """The platform with such programs; the usual ones serve again at the end."""
    names = ("agent", "control")
    for name in names:
        await platform.stop(name)
        with (platform.data_dir / f"{name}.log").open("ab") as log:
            platform.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.performance.traced_program", name],
                env=platform.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    await platform.wait_ready()
    try:
        yield Trace(tuple(platform.data_dir / f"{name}.log" for name in names))
    finally:
        for name in names:
            await platform.stop(name)
            platform.start(name)
        await platform.wait_ready()
