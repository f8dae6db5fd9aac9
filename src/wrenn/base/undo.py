"""A stack of undo steps for operations that acquire several resources.

Acquire a resource, push its undo step on the next line, and call `keep()` at the end. If the block is left
without `keep()`, the steps run newest first, each with its own deadline and shielded from cancellation: a
second cancellation must not interrupt a step that is half-way through a tear-down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

_log = logging.getLogger(__name__)

STEP_TIMEOUT_S = 15.0
"""Longest time for a single undo step: killing a VMM and removing its files takes well under a second."""


class Undo:
    """A stack of undo steps. Used as `async with Undo() as undo:`."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], Awaitable[object]], float]] = []

    def push(
        self, name: str, step: Callable[[], Awaitable[object]], *, timeout_s: float | None = None
    ) -> None:
        """Add `step`, a function that returns an awaitable; `name` describes what it undoes and appears in logs.

        `timeout_s`: of a step that may take longer than the usual ones.
        """
        self._steps.append((name, step, STEP_TIMEOUT_S if timeout_s is None else timeout_s))

    def keep(self) -> None:
        """Discard the steps: the operation succeeded."""
        self._steps.clear()

    async def run(self) -> None:
        """Run all steps now, newest first. If a step fails, that is logged and the others still run.

        A cancellation takes effect after all steps have run.
        """
        cancelled = False
        while self._steps:
            name, step, timeout_s = self._steps.pop()
            cancelled |= await _shielded(name, step, timeout_s)
        if cancelled:
            raise asyncio.CancelledError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.run()


async def _shielded(name: str, step: Callable[[], Awaitable[object]], timeout_s: float) -> bool:
    """Run one step to its end; return whether a cancellation arrived meanwhile."""

    async def bounded() -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await step()
        except Exception:  # noqa: BLE001 - the remaining steps must run; what is left is cleaned up at the next start
            _log.exception("undo step failed", extra={"step": name})

    task = asyncio.ensure_future(bounded())
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    return cancelled
