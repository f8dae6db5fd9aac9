"""Create: one after the other beside a bare QEMU, ten at once, fifty alive."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx2

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
        await _remove(api, (await _create(api))["id"])  # makes the base and opens the connections

        async def through_api_ms() -> float:
            started = time.perf_counter()
            sandbox = await _create(api)
            elapsed = (time.perf_counter() - started) * 1000
            await _remove(api, sandbox["id"])
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
        started = time.perf_counter()
        ids.append((await _create(api))["id"])
        durations.append((time.perf_counter() - started) * 1000)

    started = time.perf_counter()
    for _ in range(LIVE // AT_ONCE):
        await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    elapsed = time.perf_counter() - started
    answers = await asyncio.gather(
        *(api.post(f"/v1/sandboxes/{i}/exec", json={"cmd": "true", "timeout_sec": 60}) for i in ids)
    )
    alive = sum(answer.status_code == 200 and answer.json()["exit_code"] == 0 for answer in answers)
    await asyncio.gather(*(_remove(api, i) for i in ids))
    return Figure(
        f"{AT_ONCE} creates at once until {LIVE} live",
        "–",
        f"p50 {median(durations):.0f} ms, p99 {percentile(durations, 0.99):.0f} ms, {LIVE / elapsed:.1f} creates/s, "
        f"{alive} of {LIVE} answer",
        "–",
        "all succeed",
        alive == LIVE,
    )


async def _create(api: httpx2.AsyncClient) -> dict[str, Any]:
    answer = await api.post("/v1/sandboxes", json={"memory_mb": SHAPE.memory_mb, "vcpus": SHAPE.vcpus})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def _remove(api: httpx2.AsyncClient, sandbox_id: str) -> None:
    assert (await api.delete(f"/v1/sandboxes/{sandbox_id}")).status_code == 204
