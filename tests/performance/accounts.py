"""What accounts cost: a request with a key beside a constant answer of the same server, and other requests during logins."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE

from tests.performance.api import create, remove
from tests.performance.figures import Figure, median
from tests.vm.platform import Platform

SECONDS = 4
CONNECTIONS = 8
LOGINS = 20
LOGIN_ROUNDS = 3
SETTLE_S = 2


async def accounts(platform: Platform, rounds: int) -> list[Figure]:
    """Both figures. The load comes from a process of its own."""
    async with platform.client() as api:
        sandbox_id = await create(api)
        key = str(api.headers["x-api-key"])
        url = str(api.base_url).rstrip("/")
        target = f"{url}/v1/sandboxes/{sandbox_id}"
        floors: list[dict[str, float]] = []
        measured: list[dict[str, float]] = []
        for _ in range(max(1, min(rounds, 5))):
            floors.append(await _load(f"{url}/health", key))
            measured.append(await _load(target, key))
        for number in range(LOGINS):
            body = {"email": f"login{number}@example.com", "password": "correct horse", "name": "Load"}
            await api.post("/v1/auth/signup", json=body)
        quiet: list[float] = []
        busy: list[float] = []
        for _ in range(LOGIN_ROUNDS):
            quiet.append((await _load(target, key, connections=1))["p99_ms"])
            logins = asyncio.gather(*(_log_in_again(platform, number) for number in range(LOGINS)))
            await asyncio.sleep(SETTLE_S)  # the clients are made, which takes the machine as much as they do
            busy.append((await _load(target, key, connections=1))["p99_ms"])
            logins.cancel()
            await asyncio.gather(logins, return_exceptions=True)
        await remove(api, sandbox_id)
    rate, floor_rate = (median([run["rate"] for run in runs]) for runs in (measured, floors))
    p99, floor_p99 = (median([run["p99_ms"] for run in runs]) for runs in (measured, floors))
    return [
        Figure(
            f"GET /v1/sandboxes/{{id}} with a key, {CONNECTIONS} connections (floor: a constant answer)",
            f"{floor_rate:.0f}/s",
            f"{rate:.0f}/s",
            f"{rate / floor_rate:.2f}",
            "≥ 0.6",
            rate >= 0.6 * floor_rate,
        ),
        Figure(
            "the same, p99",
            f"{floor_p99:.1f} ms",
            f"{p99:.1f} ms",
            f"{p99 / floor_p99:.2f}",
            "≤ 3",
            p99 <= 3 * floor_p99,
        ),
        Figure(
            f"p99 of GET while {LOGINS} logins run (floor: without)",
            f"{median(quiet):.1f} ms",
            f"{median(busy):.1f} ms",
            f"{median(busy) / median(quiet):.2f}",
            "≤ 2",
            median(busy) <= 2 * median(quiet),
        ),
    ]


async def _log_in_again(platform: Platform, number: int) -> None:
    async with platform.client() as api:
        while True:
            await api.post(
                "/v1/auth/login",
                json={"email": f"login{number}@example.com", "password": "correct horse"},
                timeout=60,
            )


async def _load(url: str, key: str, *, connections: int = CONNECTIONS) -> dict[str, float]:
    arguments = [url, key, str(connections), str(SECONDS)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.performance.load", *arguments, stdout=PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, "the load did not run"
    return json.loads(out)
