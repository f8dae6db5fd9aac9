"""A build whose steps are all cached, to its end, beside one create."""

from __future__ import annotations

import httpx2

from tests.performance.api import create, remove, run, stopwatch
from tests.performance.builds import build
from tests.performance.figures import Figure, alternating, median
from tests.vm.platform import Platform

RECIPE = ["RUN sleep 1.5; echo one > /srv/one", "RUN sleep 1.5; echo two > /srv/two"]
MORE_MS = 1000


async def cached_builds(platform: Platform, rounds: int) -> list[Figure]:
    """Figures of builds that find all their steps, with an image or memory as the result."""
    rounds = max(1, rounds // 4)
    async with platform.client() as api:
        await _build(api, "bench-image", RECIPE)

        async def created_ms() -> float:
            elapsed_ms = stopwatch()
            sandbox = await create(api)
            await run(api, sandbox)
            elapsed = elapsed_ms()
            await remove(api, sandbox)
            return elapsed

        async def same_ms() -> float:
            elapsed_ms = stopwatch()
            await _build(api, "bench-image", RECIPE)
            return elapsed_ms()

        names = iter(range(rounds + 1))

        async def started_ms() -> float:
            # A name of its own for each: the template with memory of the same name would be taken.
            elapsed_ms = stopwatch()
            await _build(api, f"bench-started-{next(names)}", [*RECIPE, "START sleep 10000"])
            return elapsed_ms()

        await created_ms()
        floors, same = await alternating(created_ms, same_ms, rounds=rounds)
        _, started = await alternating(created_ms, started_ms, rounds=rounds)
    over_ms = median(same) - median(floors)
    return [
        Figure(
            f"build with all steps cached, to its end ({rounds} rounds)",
            f"{median(floors):.0f} ms (create and first exec)",
            f"{median(same):.0f} ms",
            f"{over_ms:+.0f} ms",
            f"≤ +{MORE_MS} ms",
            over_ms <= MORE_MS,
        ),
        Figure(
            f"build with all steps cached and a program to start, which is kept in memory ({rounds} rounds)",
            f"{median(floors):.0f} ms (create and first exec)",
            f"{median(started):.0f} ms",
            f"{median(started) - median(floors):+.0f} ms",
            "–",
            None,
        ),
    ]


async def _build(api: httpx2.AsyncClient, name: str, recipe: list[str]) -> None:
    await build(api, {"name": name, "recipe": recipe, "skip_pre_post": True})
