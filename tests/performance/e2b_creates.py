"""Creates through the API of e2b, by its SDK, beside creates through the platform's own API."""

from __future__ import annotations

from e2b import AsyncSandbox

from tests.performance.api import create, remove, stopwatch
from tests.performance.figures import Figure, alternating, median
from tests.vm.platform import Platform
from wrenn.control.identity import KeyFormat
from wrenn.control.identity.bootstrap import bootstrap

_MORE_MS = 10


async def e2b_creates(platform: Platform, rounds: int) -> list[Figure]:
    """The figure of creation through the API of e2b."""
    key = (await bootstrap(platform.database_url, KeyFormat.E2B)).reveal()
    url = platform.base_url
    async with platform.client() as api:

        async def own_ms() -> float:
            elapsed_ms = stopwatch()
            sandbox_id = await create(api)
            elapsed = elapsed_ms()
            await remove(api, sandbox_id)
            return elapsed

        async def through_e2b_ms() -> float:
            elapsed_ms = stopwatch()
            sandbox = await AsyncSandbox.create("minimal", api_key=key, api_url=f"{url}/e2b", sandbox_url=url)
            elapsed = elapsed_ms()
            await sandbox.kill()
            return elapsed

        await own_ms()
        await through_e2b_ms()  # makes the base and opens the connections
        floors, values = await alternating(own_ms, through_e2b_ms, rounds=rounds)
    more_ms = median(values) - median(floors)
    return [
        Figure(
            "e2b SDK: `Sandbox.create`",
            f"{median(floors):.0f} ms (`POST /v1/sandboxes`)",
            f"{median(values):.0f} ms",
            f"{more_ms:+.1f} ms",
            f"≤ + {_MORE_MS} ms",
            more_ms <= _MORE_MS,
        )
    ]
