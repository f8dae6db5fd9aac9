"""An event loop whose time is virtual: it advances only when no task is runnable, to the next timer, and then at once.

Work that is given to a thread runs in the loop's own thread after a virtual delay, so the order of everything is the same in
every run. Two libraries were considered. `looptime` fast-forwards the timers of an ordinary loop, but leaves threads real, so
that their order is not determined. `async-solipsism` runs threads' work at once, which hides every state in between; it refuses
`sock_connect`, which aiohttp needs, and its license (GPL) is not ours.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import selectors
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar
from unittest.mock import patch

_T = TypeVar("_T")

EPOCH: Final = datetime(2030, 1, 1, tzinfo=UTC)
"""The wall-clock time at which every virtual loop begins."""


_TURNS_AT_ONCE: Final = 100_000
"""Turns of the loop in which no time passes, after which time is taken to stand still for ever."""


class NothingLeftToRun(Exception):
    """Every task waits, and no timer is set: an ordinary loop would wait for ever."""


class TimeStandsStill(Exception):
    """Tasks or timers keep the loop busy so that no virtual time passes."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop with virtual time, which starts at 0.

    Threads that the code starts by itself, and real sockets, are not waited for. `thread_s` draws the virtual duration of work
    in a thread.

    Attributes:
        steps: turns of the loop until now. Between two turns every task is at an `await`.
    """

    def __init__(self, thread_s: Callable[[], float] = lambda: 0.0) -> None:
        self.steps = 0
        self._now = 0.0
        self._moved_at = 0
        self._thread_s = thread_s
        self._at_steps: list[tuple[int, int, Callable[[], object]]] = []
        # What is due at the same step is called in the order in which it was asked for.
        self._order = itertools.count()
        super().__init__(_Selector(self._before_turn))

    def time(self) -> float:
        """The virtual time in seconds."""
        return self._now

    def call_at_step(self, step: int, callback: Callable[[], object]) -> None:
        """Call `callback` between two turns of the loop, when `steps` reaches `step` or at once if it has."""
        heapq.heappush(self._at_steps, (step, next(self._order), callback))

    def _before_turn(self, wait_s: float | None, *, is_idle: bool) -> None:
        self.steps += 1
        while self._at_steps and self._at_steps[0][0] <= self.steps:
            heapq.heappop(self._at_steps)[2]()
        if is_idle:
            if wait_s is None:
                raise NothingLeftToRun(f"Nothing is left to run at {self._now:.6f} s.")
            self._now += wait_s
            self._moved_at = self.steps
        elif self.steps - self._moved_at > _TURNS_AT_ONCE:
            self._moved_at = self.steps  # so that the tasks can be cancelled
            raise TimeStandsStill(f"No time passes at {self._now:.6f} s.")

    def run_in_executor(self, executor: object, func: Callable[..., _T], *args: Any) -> asyncio.Future[_T]:
        """Run `func` in this thread after a virtual delay. As in a thread, it runs even if nobody waits for it any more."""
        del executor
        future: asyncio.Future[_T] = self.create_future()
        self.call_later(self._thread_s(), _run, future, func, args)
        return future


def _run(future: asyncio.Future[_T], func: Callable[..., _T], args: tuple[Any, ...]) -> None:
    try:
        result = func(*args)
    except Exception as error:  # noqa: BLE001 - raised where the result is awaited
        if not future.done():
            future.set_exception(error)
    else:
        if not future.done():
            future.set_result(result)


class _Selector(selectors.DefaultSelector):
    """Polls without waiting, and reports each turn of its loop."""

    def __init__(self, before_turn: Callable[..., None]) -> None:
        super().__init__()
        self._before_turn = before_turn

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        self._before_turn(timeout, is_idle=not found and (timeout is None or timeout > 0))
        return found


class VirtualClock:
    """The time of the running virtual loop. Implements `wrenn.base.clock.Clock`."""

    def now(self) -> datetime:
        """`EPOCH` and the time that has passed in the loop."""
        return EPOCH + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """The time of the loop."""
        return asyncio.get_running_loop().time()


def run(main: Callable[[], Coroutine[Any, Any, _T]], loop: Callable[[], VirtualTimeLoop]) -> _T:
    """Run `main` in a new loop made by `loop`, and close the loop.

    Meanwhile the functions of the module `time` that tell the time tell the virtual one: aiohttp asks them how long a connection was
    idle, and statistics are counted by minute. `datetime.now` still tells the real time, which is that of certificates.

    Raises:
        NothingLeftToRun: `main` waits for what cannot happen.
    """
    with asyncio.Runner(loop_factory=loop) as runner, _time_of(runner.get_loop()):
        return runner.run(main())


@contextmanager
def _time_of(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    """Have the functions of the module `time` tell the time of a loop."""

    def unix_s() -> float:
        return EPOCH.timestamp() + loop.time()

    def in_ns(seconds: Callable[[], float]) -> Callable[[], int]:
        return lambda: int(seconds() * 1e9)

    with ExitStack() as stack:
        for name in ("monotonic", "perf_counter"):
            stack.enter_context(patch.object(time, name, loop.time))
            stack.enter_context(patch.object(time, f"{name}_ns", in_ns(loop.time)))
        stack.enter_context(patch.object(time, "time", unix_s))
        stack.enter_context(patch.object(time, "time_ns", in_ns(unix_s)))
        # It has imported the function itself.
        stack.enter_context(patch("aiohttp.connector.monotonic", loop.time))
        yield
