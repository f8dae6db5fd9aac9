"""Creates through the API of e2b, by its SDK and without it, beside creates through the platform's own API."""

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

        async def by_the_same_client_ms() -> float:
            elapsed_ms = stopwatch()
            answer = await api.post("/e2b/v2/sandboxes", json={"templateID": "minimal", "timeout": 300})
            elapsed = elapsed_ms()
            assert answer.status_code == 201, answer.text
            await remove(api, f"cl-{answer.json()['sandboxID']}")
            return elapsed

        await own_ms()
        await through_e2b_ms()  # makes the base and opens the connections
        by_sdk = await alternating(own_ms, through_e2b_ms, rounds=rounds)
        by_client = await alternating(own_ms, by_the_same_client_ms, rounds=rounds)
    return [
        _figure("e2b SDK: `Sandbox.create`", *by_sdk),
        _figure("`POST /e2b/v2/sandboxes` by the same client", *by_client),
    ]


def _figure(what: str, floors: list[float], values: list[float]) -> Figure:
    more_ms = median(values) - median(floors)
    return Figure(
        what,
        f"{median(floors):.0f} ms (`POST /v1/sandboxes`)",
        f"{median(values):.0f} ms",
        f"{more_ms:+.1f} ms",
        f"≤ + {_MORE_MS} ms",
        more_ms <= _MORE_MS,
    )
