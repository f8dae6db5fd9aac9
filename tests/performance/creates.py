"""Create: one after the other beside a bare QEMU, ten at once, fifty alive."""

from __future__ import annotations

import asyncio

import httpx2

from tests.performance.api import create, remove, stopwatch
from tests.performance.figures import Figure, alternating, median, percentile
from tests.performance.floor import bare_restore
from tests.vm.platform import Platform
from wrenn.vm import Shape

SHAPE = Shape(vcpus=1, memory_mb=512)
LIVE = 50
AT_ONCE = 10


async def creates(platform: Platform, rounds: int) -> list[Figure]:
    """Figures of creation."""
    async with platform.client() as api:
        await remove(api, await _create(api))  # makes the base and opens the connections

        async def through_api_ms() -> float:
            elapsed_ms = stopwatch()
            sandbox_id = await _create(api)
            elapsed = elapsed_ms()
            await remove(api, sandbox_id)
            return elapsed

        async with bare_restore(platform, SHAPE) as bare:
            floors, values = await alternating(bare.once_ms, through_api_ms, rounds=rounds)
        ratio = median(values) / median(floors)
        single = Figure(
            "create → running, warm template",
            f"{median(floors):.0f} ms (bare QEMU restore → `/health`)",
            f"{median(values):.0f} ms",
            f"{ratio:.2f}",
            "≤ 1.5",
            ratio <= 1.5,
        )
        return [single, await _many(api)]


async def _many(api: httpx2.AsyncClient) -> Figure:
    durations: list[float] = []
    ids: list[str] = []

    async def one() -> None:
        elapsed_ms = stopwatch()
        ids.append(await _create(api))
        durations.append(elapsed_ms())

    elapsed_ms = stopwatch()
    for _ in range(LIVE // AT_ONCE):
        await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    elapsed = elapsed_ms() / 1000
    answers = await asyncio.gather(
        *(api.post(f"/v1/sandboxes/{i}/exec", json={"cmd": "true", "timeout_sec": 60}) for i in ids)
    )
    alive = sum(answer.status_code == 200 and answer.json()["exit_code"] == 0 for answer in answers)
    await asyncio.gather(*(remove(api, i) for i in ids))
    return Figure(
        f"{AT_ONCE} creates at once until {LIVE} live",
        "–",
        f"p50 {median(durations):.0f} ms, p99 {percentile(durations, 0.99):.0f} ms, {LIVE / elapsed:.1f} creates/s, "
        f"{alive} of {LIVE} answer",
        "–",
        "all succeed",
        alive == LIVE,
    )


async def _create(api: httpx2.AsyncClient) -> str:
    return await create(api, memory_mb=SHAPE.memory_mb, vcpus=SHAPE.vcpus)
