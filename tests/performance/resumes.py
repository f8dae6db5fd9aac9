"""Resume until exec answers, beside create until exec answers: at the first generation, and from the twentieth on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx2

from tests.performance.api import create, pause, remove, resume, run, stopwatch
from tests.performance.figures import Figure, alternating, median
from tests.vm.platform import Platform

MEMORY_MB = 512
IDLE_S = 0.3
OLD = 20
RATIO = 1.3
LITTLE_WORK = "date >> /root/log; true"
"""What is done in each generation, so that each has a disk and memory of its own to bring back."""


async def resumes(platform: Platform, rounds: int) -> list[Figure]:
    """Figures of resuming."""
    async with platform.client() as api:
        await remove(api, await create(api, memory_mb=MEMORY_MB))

        async def created_ms() -> float:
            elapsed_ms = stopwatch()
            sandbox_id = await create(api, memory_mb=MEMORY_MB)
            await run(api, sandbox_id)
            elapsed = elapsed_ms()
            await remove(api, sandbox_id)
            return elapsed

        async def young_ms() -> float:
            sandbox_id = await create(api, memory_mb=MEMORY_MB)
            elapsed = await _next_generation_ms(api, sandbox_id)
            await remove(api, sandbox_id)
            return elapsed

        first = await _figure(
            f"resume → exec answers, {MEMORY_MB} MB, 1 generation", created_ms, young_ms, rounds
        )
        sandbox_id = await create(api, memory_mb=MEMORY_MB)
        for _ in range(OLD - 1):
            await _next_generation_ms(api, sandbox_id)
        old = await _figure(
            f"resume → exec answers, generations {OLD} to {OLD + rounds - 1}",
            created_ms,
            lambda: _next_generation_ms(api, sandbox_id),
            rounds,
        )
        await remove(api, sandbox_id)
        return [first, old]


async def _next_generation_ms(api: httpx2.AsyncClient, sandbox_id: str) -> float:
    await run(api, sandbox_id, LITTLE_WORK)
    await asyncio.sleep(IDLE_S)
    await pause(api, sandbox_id)
    await asyncio.sleep(IDLE_S)  # what the pause does after it has answered
    elapsed_ms = stopwatch()
    await resume(api, sandbox_id)
    await run(api, sandbox_id)
    return elapsed_ms()


async def _figure(
    name: str,
    created_ms: Callable[[], Awaitable[float]],
    resumed_ms: Callable[[], Awaitable[float]],
    rounds: int,
) -> Figure:
    floors, values = await alternating(created_ms, resumed_ms, rounds=rounds)
    ratio = median(values) / median(floors)
    return Figure(
        name, f"{median(floors):.0f} ms (create → exec answers)", f"{median(values):.0f} ms", f"{ratio:.2f}",
        f"≤ {RATIO}", ratio <= RATIO,
    )  # fmt: skip
