"""Runs of simulated programs: which run the code that executes now belongs to, and whether that run was killed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from wrenn.base.errors import AgentFailure


@dataclass(slots=True, eq=False)
class Run:
    """One run of a program, which may be killed.

    Attributes:
        address: of the machine on which it runs, in the network between machines.
        place: what distinguishes that machine from others, for whoever asks `current_run`.
    """

    address: str = "127.0.0.1"
    place: object = None
    is_dead: bool = False


_current: ContextVar[Run | None] = ContextVar("_current", default=None)


def current_run() -> Run | None:
    """Return the run that the present task belongs to; None: it is the test's own."""
    return _current.get()


@contextmanager
def running(run: Run | None) -> Generator[None]:
    """Have this run do what follows, with all tasks that are started in it."""
    token = _current.set(run)
    try:
        yield
    finally:
        _current.reset(token)


def require_alive() -> None:
    """Raise an error in code of a program that was killed and is only taking itself apart."""
    run = _current.get()
    if run is not None and run.is_dead:
        raise AgentFailure("This program was killed.")
