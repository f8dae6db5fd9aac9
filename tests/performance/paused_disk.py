"""Disk that paused sandboxes take."""

from __future__ import annotations

import asyncio

from tests.performance.api import create, pause, remove, run
from tests.performance.figures import Figure
from tests.performance.inside import diff_b
from tests.vm.platform import Platform
from wrenn.agent.storage_report import measure_storage
from wrenn.base.units import MIB

MEMORY_MB = 512
SANDBOXES = 50
AT_ONCE = 10
IDLE_S = 3
LIMIT_MB = 5


async def paused_disk(platform: Platform, _rounds: int) -> list[Figure]:
    """The figure of the disk."""
    ids: list[str] = []
    async with platform.client() as api:

        async def one() -> str:
            sandbox_id = await create(api, memory_mb=MEMORY_MB)
            await run(api, sandbox_id)
            return sandbox_id

        for _ in range(SANDBOXES // AT_ONCE):
            ids += await asyncio.gather(*(one() for _ in range(AT_ONCE)))
        await asyncio.sleep(IDLE_S)
        for sandbox_id in ids:
            await pause(api, sandbox_id)
        await asyncio.sleep(IDLE_S)
        report = await asyncio.to_thread(measure_storage, platform.settings)
        dirty = sum(diff_b(platform.data_dir, sandbox_id) for sandbox_id in ids) / MIB
        await asyncio.gather(*(remove(api, sandbox_id) for sandbox_id in ids))
    bases = sum(usage.own_b + usage.shared_b for usage in report.usages if usage.kind == "base") / MIB
    taken = report.total_b / MIB - bases
    limit = SANDBOXES * LIMIT_MB + dirty
    return [
        Figure(
            f"disk of {SANDBOXES} idle paused {MEMORY_MB} MB sandboxes",
            f"{bases:.0f} MB (their base, once) + {dirty:.0f} MB (pages they wrote)",
            f"{taken:.0f} MB beside the base, {taken / SANDBOXES:.1f} MB each",
            f"{taken / dirty:.2f}",
            f"≤ {SANDBOXES} × {LIMIT_MB} MB + their pages = {limit:.0f} MB",
            taken <= limit,
        )
    ]
