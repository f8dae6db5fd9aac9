"""Fork of ten beside ten creates at once, and what the copies share."""

from __future__ import annotations

import asyncio

import httpx2

from tests.performance.api import create, fork, remove, run, stopwatch
from tests.performance.figures import Figure, alternating, median
from tests.performance.inside import vmm_of
from tests.performance.memory import smaps_kb
from tests.vm.platform import Platform

MEMORY_MB = 512
COPIES = 10
RATIO = 1.5
IDLE_S = 3


async def forks(platform: Platform, rounds: int) -> list[Figure]:
    """Figures of forking."""
    rounds = max(1, rounds // 3)
    async with platform.client() as api:
        source = await create(api, memory_mb=MEMORY_MB)
        await run(api, source)

        async def created_ms() -> float:
            elapsed_ms = stopwatch()
            ids = await asyncio.gather(*(create(api, memory_mb=MEMORY_MB) for _ in range(COPIES)))
            elapsed = elapsed_ms()
            await _remove(api, ids)
            return elapsed

        async def forked_ms() -> float:
            # A source of its own for each: repeated forks would make its chain of layers longer.
            fresh = await create(api, memory_mb=MEMORY_MB)
            await run(api, fresh)
            elapsed_ms = stopwatch()
            ids = await fork(api, fresh, COPIES)
            elapsed = elapsed_ms()
            await _remove(api, [*ids, fresh])
            return elapsed

        await _remove(api, await fork(api, source, COPIES))
        floors, values = await alternating(created_ms, forked_ms, rounds=rounds)
        memory = await _memory(platform, api)
        await remove(api, source)
    ratio = median(values) / median(floors)
    return [
        Figure(
            f"fork of {COPIES} ({rounds} rounds)",
            f"{median(floors):.0f} ms ({COPIES} creates at once)",
            f"{median(values):.0f} ms",
            f"{ratio:.2f}",
            f"≤ {RATIO}",
            ratio <= RATIO,
        ),
        memory,
    ]


async def _memory(platform: Platform, api: httpx2.AsyncClient) -> Figure:
    """Of a sandbox that has 100 MB of its own, and of its copies."""
    source = await create(api, memory_mb=MEMORY_MB)
    await run(api, source, "head -c 100000000 /dev/zero | tr '\\0' x > /dev/shm/held")
    alone = smaps_kb(vmm_of(platform.data_dir, source))["Pss"] / 1024
    ids = await fork(api, source, COPIES)
    await asyncio.sleep(IDLE_S)
    maps = [smaps_kb(vmm_of(platform.data_dir, copy)) for copy in ids]
    total = (smaps_kb(vmm_of(platform.data_dir, source))["Pss"] + sum(m["Pss"] for m in maps)) / 1024
    private = median([m["Private_Dirty"] + m["Private_Clean"] for m in maps]) / 1024
    shared = median([m["Shared_Dirty"] + m["Shared_Clean"] for m in maps]) / 1024
    pss = median([m["Pss"] for m in maps]) / 1024
    await _remove(api, [*ids, source])
    return Figure(
        f"memory of a sandbox that holds 100 MB and of its {COPIES} copies (PSS of the VMMs)",
        f"{alone:.0f} MB (it alone)",
        f"{total:.0f} MB together; a copy PSS {pss:.0f} = private {private:.0f} + its part of {shared:.0f} shared",
        f"{total / alone:.1f}",
        "shared",
        private < 100,
    )


async def _remove(api: httpx2.AsyncClient, ids: list[str]) -> None:
    await asyncio.gather(*(remove(api, sandbox_id) for sandbox_id in ids))
