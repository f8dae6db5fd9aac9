"""A program of the simulation, which can be killed between any two steps and started again."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, TypeVar

from wrenn.testing.simulation.runs import Run, running
from wrenn.testing.virtual_time import VirtualTimeLoop

_T = TypeVar("_T")
_P = TypeVar("_P")


class ProgramKilled(Exception):
    """The program was killed while it carried out a call."""


class Program(ABC, Generic[_P]):
    """The current run of a program, if it runs.

    A killed run is cancelled, and all that it still tries to do outside of its own memory fails: what a dead process had not
    done stays undone.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._run = Run()
        self._life: asyncio.Task[None] | None = None
        self._calls: dict[asyncio.Task[Any], None] = {}
        self._context = copy_context()
        self._ready: asyncio.Future[_P]
        self._stop = asyncio.Event()
        self._killed: list[asyncio.Task[None]] = []

    @abstractmethod
    def _new_run(self) -> Run:
        """Return the run that is about to start."""

    @abstractmethod
    def _running(self) -> AbstractAsyncContextManager[_P]:
        """Run the program; the context ends it."""

    @abstractmethod
    def _killed_now(self, run: Run) -> None:
        """Do what the machine does when the program dies, before its tasks notice."""

    @property
    def is_running(self) -> bool:
        """Whether it runs or starts."""
        return self._life is not None

    @property
    def is_ready(self) -> bool:
        """Whether it runs and has started."""
        return self._life is not None and self._ready.done()

    def current(self) -> _P:
        """Return the program's objects. It has started."""
        return self._ready.result()

    async def start(self) -> None:
        """Start it.

        Raises:
            ProgramKilled: it was killed meanwhile.
        """
        assert self._life is None, "it runs already"
        run = self._run = self._new_run()
        with running(run):
            self._context = copy_context()
        loop = asyncio.get_running_loop()
        self._ready, self._stop = loop.create_future(), asyncio.Event()
        life = self._life = loop.create_task(self._live(), name=self.name, context=self._context)
        await asyncio.wait({self._ready, life}, return_when=asyncio.FIRST_COMPLETED)
        if run.is_dead:
            raise ProgramKilled
        if not self._ready.done():
            self._life = None
            await life

    async def _live(self) -> None:
        async with self._running() as program:
            self._ready.set_result(program)
            await self._stop.wait()

    async def call(self, work: Callable[[_P], Coroutine[Any, Any, _T]]) -> _T:
        """Have the program do something.

        Raises:
            ProgramKilled: it was killed meanwhile, and what it did is unknown.
        """
        run = self._run
        if not self.is_ready:
            raise ProgramKilled
        task = asyncio.get_running_loop().create_task(work(self.current()), context=self._context)
        self._calls[task] = None
        task.add_done_callback(lambda done: self._calls.pop(done, None))
        try:
            return await task
        except BaseException as error:
            if run.is_dead:
                raise ProgramKilled from error
            raise

    async def end_calls(self, grace_s: float) -> None:
        """Give the calls in flight so long, then cancel those that are left, and wait for their ends."""
        for timeout_s in (grace_s, None):
            if self._calls:
                _, left = await asyncio.wait(list(self._calls), timeout=timeout_s)
                for task in left:
                    task.cancel()

    async def stop(self) -> None:
        """Stop it as a service manager does. Idempotent."""
        if self._life is not None:
            self._stop.set()
            life, self._life = self._life, None
            await life

    def kill(self) -> None:
        """Kill it at once, as `kill -9` does. Idempotent."""
        if self._life is None:
            return
        self._run.is_dead = True
        self._killed_now(self._run)
        for task in (*self._calls, self._life):
            task.cancel()
        self._killed.append(self._life)
        self._life = None

    def kill_at_step(self, loop: VirtualTimeLoop, step: int) -> None:
        """Kill the current run between two turns of the loop, unless it has ended by then."""
        loop.call_at_step(step, partial(self.kill_run, self._run))

    def kill_run(self, run: Run) -> None:
        """Kill it if this is its current run."""
        if self._run is run:
            self.kill()

    async def close(self) -> None:
        """Stop it and wait for the ends of killed runs."""
        await self.stop()
        for life in self._killed:
            with suppress(asyncio.CancelledError, Exception):
                await life
