"""Named fault points: where the tests kill a process or fail a step.

A point is a line `await fault_point("agent.create.after_spawn")` at the boundary between two side effects. It does
nothing unless a test armed it through the setting `WRENN_FAULTS` (read in the programs' `settings.py`):
`point=action[,point=action…]` with action `kill` (SIGKILL to this process), `error` (raise), `enospc` (raise
OSError ENOSPC) or `sleep:<seconds>`. A point may be followed by `#n`: act only at the n-th pass. `@path` instead: each
point reads what is armed from that file, so that a test can arm a program that runs already.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections import Counter
from pathlib import Path

_armed: dict[str, str] = {}
_passes: Counter[str] = Counter()
_source: Path | None = None


class FaultInjected(Exception):
    """Raised by an armed point with the action `error`."""


def arm_faults(spec: str) -> None:
    """Arm the points named in `spec` (see the module head); an empty text disarms all."""
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
    """Do what a test asked for at this point; else nothing."""
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
    else:
        raise ValueError(f"unknown fault action {action!r} for {name}")
