"""The steps of an operation that takes a while: which are done, and how long each took.

Whoever begins an operation records it (`recording`); the code that does it says where a step ends (`step_done`). An operation that
nobody records has no steps.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

STEPS_LIMIT: Final = 32
"""More than any operation has."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is done."""

    name: str
    ms: int


@dataclass(slots=True)
class StepLog:
    """The steps of one operation so far.

    Attributes:
        operation: what is done: `create`, `pause`, `resume`.
    """

    operation: str
    steps: list[Step] = field(default_factory=list[Step])
    _since: float = field(init=False)

    def __post_init__(self) -> None:
        self._since = time.monotonic()

    def add(self, name: str) -> None:
        """Record that a step ends now; the next one begins."""
        now = time.monotonic()
        if len(self.steps) < STEPS_LIMIT:
            self.steps.append(Step(name, round((now - self._since) * 1000)))
        self._since = now


_current: Final[ContextVar[StepLog | None]] = ContextVar("steps", default=None)


@contextmanager
def recording(log: StepLog) -> Generator[None]:
    """Record the steps of what this task does in the body."""
    former = _current.set(log)
    try:
        yield
    finally:
        _current.reset(former)


def step_done(name: str) -> None:
    """Record that a step of the operation of this task ends now, if somebody records it."""
    if (log := _current.get()) is not None:
        log.add(name)
