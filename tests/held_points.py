"""Fault points of this process at which something waits until a test has done its part, however long that takes."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from wrenn.base.faults import arm_faults

_DEADLINE_S: Final = 30.0


class HeldPoints:
    """The points that are held. `then`: the faults that are armed when they are released."""

    def __init__(self, path: Path, then: str) -> None:
        self._path = path
        self._then = then

    async def wait_reached(self) -> None:
        """Return when something waits at one of the points."""
        async with asyncio.timeout(_DEADLINE_S):
            while not self._path.exists():
                await asyncio.sleep(0.01)

    def release(self) -> None:
        """Let everything go on that waits, and hold nothing that comes later. May be called twice."""
        arm_faults(self._then)
        self._path.unlink(missing_ok=True)


@contextmanager
def held_points(folder: Path, *points: str, then: str = "") -> Generator[HeldPoints]:
    """A context in which whatever reaches one of the points waits there; it leaves no fault armed."""
    path = folder / "held"
    held = HeldPoints(path, then)
    arm_faults(",".join(f"{point}=hold:{path}" for point in points))
    try:
        yield held
    finally:
        held.release()
        arm_faults("")
