"""Undo: the way back of every bring-up (style rule 8).

Acquire, push the undo on the next line, go on; `keep()` at the end. On any way out without `keep()` the steps run newest
first, each with its own deadline and shielded from cancellation: a second cancellation must not cut off a step that is
half way through taking something down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

_log = logging.getLogger(__name__)

STEP_TIMEOUT_S = 15.0
"""Longest a single undo step may take: killing a VMM and removing its files takes well under a second."""


class Undo:
    """A stack of undo steps. Used as `async with Undo() as undo:`."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], Awaitable[object]]]] = []

    def push(self, name: str, step: Callable[[], Awaitable[object]]) -> None:
        """Remember `step` (a function that returns an awaitable); `name` says what it takes back."""
        self._steps.append((name, step))

    def keep(self) -> None:
        """All went well: forget the steps."""
        self._steps.clear()

    async def run(self) -> None:
        """Run all steps now, newest first. A step that fails is logged and the others still run.

        A cancellation takes effect when all steps have run.
        """
        cancelled = False
        while self._steps:
            name, step = self._steps.pop()
            cancelled |= await _shielded(name, step)
        if cancelled:
            raise asyncio.CancelledError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.run()


async def _shielded(name: str, step: Callable[[], Awaitable[object]]) -> bool:
    """Run one step to its end; whether a cancellation arrived meanwhile."""

    async def bounded() -> None:
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                await step()
        except Exception:  # noqa: BLE001 - the remaining steps must run; the sweep at start-up takes what is left
            _log.exception("undo step failed", extra={"step": name})

    task = asyncio.ensure_future(bounded())
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    return cancelled
