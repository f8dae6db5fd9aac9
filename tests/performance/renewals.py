"""1,000 commands a minute while the certificate of their host is renewed every few seconds: how many fail.

`python -m tests.performance.renewals` runs this alone. Real control planes behind HAProxy, agents, TLS; guests are processes. Needs root.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fleet.kit import Fleet, Host, joined_fleet, until
from tests.performance.figures import HEAD, Figure, median, percentile
from wrenn.control.db.embedded import ensure_running, stop
from wrenn.control.db.migrate import migrate

_PER_MINUTE = 1000
_SPAN_S = 60.0
_BETWEEN_RENEWALS_S = 5.0


async def renewals(rounds: int) -> list[Figure]:
    """Commands are begun at a fixed rate, whether or not those before have ended."""
    del rounds  # the rate and the time are given
    folder = Path(tempfile.mkdtemp(prefix="wrenn-bench-"))
    folder.chmod(0o711)
    try:
        url = await ensure_running(folder)
        await migrate(url)
        async with joined_fleet(folder, url) as fleet:
            sandbox_id = await fleet.create()
            host = fleet.host_of(sandbox_id)
            statuses: Counter[int] = Counter()
            took_ms: list[float] = []
            commands = asyncio.create_task(_commands(fleet, sandbox_id, statuses, took_ms))
            renewed = 0
            while not commands.done():
                await _renew(host)
                renewed += 1
                await asyncio.wait([commands], timeout=_BETWEEN_RENEWALS_S)
            await commands
            await fleet.remove_sandboxes()
    finally:
        await stop(folder)
        shutil.rmtree(folder)
    failed = statuses.total() - statuses[200]
    return [
        Figure(
            f"{statuses.total()} commands at {_PER_MINUTE} a minute while their host's certificate is renewed {renewed} times",
            "–",
            f"{failed} failed; median {median(took_ms):.0f} ms, 99th percentile {percentile(took_ms, 0.99):.0f} ms",
            f"load {os.getloadavg()[0]:.1f}",
            "0 failed",
            failed == 0,
        )
    ]


async def _commands(fleet: Fleet, sandbox_id: str, statuses: Counter[int], took_ms: list[float]) -> None:
    async def one() -> None:
        begun = time.perf_counter()
        answer = await api.post(f"/v1/sandboxes/{sandbox_id}/exec", json={"cmd": "true"})
        took_ms.append((time.perf_counter() - begun) * 1000)
        statuses[answer.status_code] += 1

    count = round(_PER_MINUTE * _SPAN_S / 60)
    began = time.monotonic()
    async with fleet.api() as api, asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number * 60 / _PER_MINUTE - time.monotonic()))
            group.create_task(one())


async def _renew(host: Host) -> None:
    former = host.expire_certificate()

    async def renewed() -> object:
        return host.credentials()["cert_pem"] != former["cert_pem"]

    await until(renewed)


if __name__ == "__main__":
    print(HEAD)
    for found in asyncio.run(renewals(1)):
        print(found.row())
