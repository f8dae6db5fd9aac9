"""Named fault points, where tests kill a process or make a step fail.

A fault point is a line `await fault_point("agent.create.after_spawn")` between two side effects. It does
nothing unless a test armed it through the setting `WRENN_FAULTS` (read in the programs' `settings.py`):
`point=action[,point=action…]` with action `kill` (SIGKILL to this process), `error` (raise), `enospc` (raise
OSError ENOSPC), `sleep:<seconds>`, or `hold:<path>` (create this file, and wait until it is removed). A point followed by `#n` acts only the n-th time that it is reached. With
`@path` instead, each point reads that file when it is reached, so that a test can arm a program that is already
running.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections import Counter
from pathlib import Path

_HOLD_LIMIT_S = 120.0
_HOLD_POLL_S = 0.01

_armed: dict[str, str] = {}
_passes: Counter[str] = Counter()
_source: Path | None = None


class FaultInjected(Exception):
    """Raised at a fault point that is armed with the action `error`."""


def arm_faults(spec: str) -> None:
    """Arm the fault points in `spec`, a list `point=action[,point=action…]` or `@path`; an empty text disarms all."""
    global _source  # noqa: PLW0603 - as the dictionaries beside it, there is one of it in a program
    _passes.clear()
    _source = Path(spec[1:]) if spec.startswith("@") else None
    _arm("" if _source is not None else spec)


def _arm(points: str) -> None:
    _armed.clear()
    for part in filter(None, points.split(",")):
        point, _, action = part.partition("=")
        _armed[point] = action


async def fault_point(name: str) -> None:
    """Perform the action that is armed for this point, if any."""
    if _source is not None:
        _arm(_source.read_text())
    if not _armed:
        return
    _passes[name] += 1
    action = _armed.get(name) or _armed.get(f"{name}#{_passes[name]}")
    if action is None:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "error":
        raise FaultInjected(name)
    elif action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif action.startswith("sleep:"):
        await asyncio.sleep(float(action.removeprefix("sleep:")))
    elif action.startswith("hold:"):
        await _hold(Path(action.removeprefix("hold:")))
    else:
        raise ValueError(f"unknown fault action {action!r} for {name}")


async def _hold(path: Path) -> None:
    """Show that the point is reached, and wait until the test has done its part."""
    path.touch()
    async with asyncio.timeout(_HOLD_LIMIT_S):
        while path.exists():  # noqa: ASYNC110 - another process removes it
            await asyncio.sleep(_HOLD_POLL_S)
