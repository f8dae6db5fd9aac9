"""Pause: an idle sandbox step by step, and with memory written."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import httpx2

from tests.performance.api import create, pause, remove, run, stopwatch
from tests.performance.figures import Figure, median
from tests.performance.floor import straight_to_guest
from tests.performance.inside import diff_b
from tests.performance.traced import Trace, traced
from tests.vm.platform import Platform
from wrenn.base.units import MIB
from wrenn.guest import CommandLine, Commands

MEMORY_MB = 512
IDLE_S = 0.5
LIMIT_MS = 100
DIRTY_MB = (10, 100, 400)
DIRTY_ROUNDS = 5
DIRTY_LIMIT_MS = 60
DIRTY_RATIO = 1.5
LONG_MS = 10
SPARE_B = 64 * MIB
PIECE = os.urandom(MIB)
STEPS = {
    "control.pause.after_desired": "API and row",
    "agent.pause.after_journal": "to the agent, calls drained, journal",
    "agent.pause.after_hold": "guest held",
    "agent.pause.after_freeze": "VM stopped",
    "agent.pause.after_memory": "memory",
    "agent.pause.after_state": "devices",
    "agent.pause.after_manifest": "disk digest, manifest",
    "agent.pause.after_kill": "VMM gone",
    "agent.pause.after_release": "cgroup, slot",
    "agent.pause.after_paused": "journal",
    "control.pause.after_rpc": "back to the control plane",
    "control.pause.after_apply": "row",
    "control.answer": "answer",
}
HOLDER = """
import os, sys, time
piece, held = os.urandom(1 << 20), bytearray()
for _ in range(int(sys.argv[1])):
    held += piece
open("/tmp/holds", "w").close()
time.sleep(1000)
"""
"""Every page of what it holds differs from the base's and none is zero; to the pause it is no matter that pieces are alike."""


class _Pauses:
    """Pauses that are measured alike, with their steps, beside a copy of `floor_b` bytes, or of as many as the diff has."""

    def __init__(
        self, platform: Platform, api: httpx2.AsyncClient, trace: Trace, *, floor_b: int = 0
    ) -> None:
        self._platform = platform
        self._api = api
        self._trace = trace
        self._floor_b = floor_b
        self.values: list[float] = []
        self.floors: list[float] = []
        self.diffs_mb: list[float] = []
        self._steps: dict[str, list[float]] = {point: [] for point in STEPS}

    async def measure(self, sandbox_id: str) -> None:
        """Pause this sandbox."""
        floor = self._platform.data_dir / "floor"
        await asyncio.to_thread(_calm, floor, self._floor_b)
        self._trace.begin()
        elapsed_ms = stopwatch()
        await pause(self._api, sandbox_id)
        self.values.append(elapsed_ms())
        for point, step_ms in self._trace.steps_ms(of="pause").items():
            self._steps.setdefault(point, []).append(step_ms)
        size_b = diff_b(self._platform.data_dir, sandbox_id)
        self.diffs_mb.append(size_b / MIB)
        await asyncio.to_thread(_calm, floor, self._floor_b)
        self.floors.append(await asyncio.to_thread(_copy_ms, floor, self._floor_b or size_b))

    def steps(self, *, over_ms: float = 0) -> str:
        """The medians of the steps that take longer than this."""
        medians = {point: median(ms) for point, ms in self._steps.items() if ms}
        return " · ".join(
            f"{STEPS.get(point, point)} {ms:.1f}" for point, ms in medians.items() if ms > over_ms
        )


async def pauses(platform: Platform, rounds: int) -> list[Figure]:
    """Figures of pausing."""
    async with traced(platform) as trace, platform.client() as api:
        await remove(api, await create(api, memory_mb=MEMORY_MB))
        figures = await _idle(_Pauses(platform, api, trace), api, rounds)
        for dirty_mb in DIRTY_MB:
            measured = _Pauses(platform, api, trace, floor_b=dirty_mb * MIB)
            figures.append(await _dirty(measured, platform, api, dirty_mb, min(rounds, DIRTY_ROUNDS)))
        return figures


async def _idle(measured: _Pauses, api: httpx2.AsyncClient, rounds: int) -> list[Figure]:
    for _ in range(rounds):
        sandbox_id = await create(api, memory_mb=MEMORY_MB)
        await run(api, sandbox_id)
        await asyncio.sleep(IDLE_S)
        await measured.measure(sandbox_id)
        await remove(api, sandbox_id)
    value, floor = median(measured.values), median(measured.floors)
    return [
        Figure(
            f"pause of an idle {MEMORY_MB} MB sandbox, through the API",
            f"{floor:.0f} ms (copy of its {median(measured.diffs_mb):.0f} MB)",
            f"{value:.0f} ms",
            "–",
            f"≤ {LIMIT_MS} ms",
            value <= LIMIT_MS,
        ),
        Figure("steps of that pause, ms", "–", measured.steps(), "–", "–", None),
    ]


async def _dirty(
    measured: _Pauses, platform: Platform, api: httpx2.AsyncClient, dirty_mb: int, rounds: int
) -> Figure:
    for _ in range(rounds):
        sandbox_id = await create(api, memory_mb=MEMORY_MB)
        async with straight_to_guest(platform, sandbox_id) as guest:
            await Commands(guest).start(CommandLine("python3", ("-c", HOLDER, str(dirty_mb))), tag="holder")
        await run(api, sandbox_id, "until test -e /tmp/holds; do sleep 0.1; done")
        await asyncio.sleep(IDLE_S)
        await measured.measure(sandbox_id)
        await remove(api, sandbox_id)
    value, floor = median(measured.values), median(measured.floors)
    limit = DIRTY_LIMIT_MS + DIRTY_RATIO * floor
    return Figure(
        f"pause with {dirty_mb} MB of memory written ({rounds} rounds)",
        f"{floor:.0f} ms (copy of {dirty_mb} MB from memory to the page cache)",
        f"{value:.0f} ms ({median(measured.diffs_mb):.0f} MB in the diff; ms: {measured.steps(over_ms=LONG_MS)})",
        f"{value / floor:.2f}",
        f"≤ {DIRTY_LIMIT_MS} ms + {DIRTY_RATIO} × floor = {limit:.0f} ms",
        value <= limit,
    )


def _calm(path: Path, size_b: int) -> None:
    """Let nothing be under way, and memory be there, for what is measured next.

    What was written before is flushed. A machine that is itself virtual gives free memory back to its host after two seconds,
    and then takes ten times as long to fill the page cache; floor and pause shall both find what was just freed.
    """
    os.sync()
    _copy_ms(path, size_b + SPARE_B)


def _copy_ms(path: Path, size_b: int) -> float:
    """How long it takes to write so many bytes to a new file, without flushing them to the disk."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        started = time.perf_counter()
        for at in range(0, size_b, MIB):
            os.write(fd, PIECE[: size_b - at])
        return (time.perf_counter() - started) * 1000
    finally:
        os.close(fd)
        path.unlink()
