"""One figure: what was measured, beside what nothing could beat."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of the table. `target` is in words; `reached` says whether it holds."""

    name: str
    floor: str
    measured: str
    ratio: str
    target: str
    reached: bool | None

    def row(self) -> str:
        """As a row of Markdown."""
        mark = {True: "yes", False: "**no**", None: "–"}[self.reached]
        return f"| {self.name} | {self.floor} | {self.measured} | {self.ratio} | {self.target} | {mark} |"


HEAD = "| what | floor | measured | ratio | to reach | reached |\n|---|---|---|---|---|---|"


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0…1) of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


async def timed_ms(work: Callable[[], Awaitable[object]]) -> float:
    """How long one run takes, in ms."""
    started = time.perf_counter()
    await work()
    return (time.perf_counter() - started) * 1000


async def alternating(
    floor: Callable[[], Awaitable[float]], measured: Callable[[], Awaitable[float]], *, rounds: int
) -> tuple[list[float], list[float]]:
    """Measure both in turn, so that a change of the machine's speed meets both alike."""
    floors: list[float] = []
    values: list[float] = []
    for _ in range(rounds):
        floors.append(await floor())
        values.append(await measured())
    return floors, values
