"""Exec of `true`: through the API beside the same call straight to the guest agent."""

from __future__ import annotations

import aiohttp

from tests.performance.figures import Figure, alternating, median, timed_ms
from tests.performance.floor import straight_to_guest
from tests.vm.platform import Platform
from wrenn.guest import CommandLine, Commands

WARM_UP = 10


async def execs(platform: Platform, rounds: int) -> list[Figure]:
    """The figure of exec."""
    # The same HTTP client on both sides, so that only what lies between is compared.
    plain = aiohttp.ClientSession(platform.base_url, headers={"X-API-Key": platform.key})
    async with platform.client() as api, plain:
        sandbox_id = (await api.post("/v1/sandboxes", json={})).json()["id"]
        path = f"/v1/sandboxes/{sandbox_id}/exec"

        async def exec_true() -> None:
            async with plain.post(path, json={"cmd": "true"}) as answer:
                assert (await answer.json())["exit_code"] == 0

        async with straight_to_guest(platform, sandbox_id) as guest:
            commands = Commands(guest)
            command = CommandLine("true")

            async def straight() -> float:
                return await timed_ms(lambda: commands.run(command, timeout_s=30))

            async def through_api() -> float:
                return await timed_ms(exec_true)

            await alternating(straight, through_api, rounds=WARM_UP)
            floors, values = await alternating(straight, through_api, rounds=rounds * 5)
        await api.delete(f"/v1/sandboxes/{sandbox_id}")
    more = median(values) - median(floors)
    return [
        Figure(
            "exec of `true`, warm sandbox",
            f"{median(floors):.1f} ms (straight to envd)",
            f"{median(values):.1f} ms",
            f"+{more:.1f} ms",
            "≤ floor + 4 ms",
            more <= 4,
        )
    ]
