"""Memory of an idle sandbox."""

from __future__ import annotations

import asyncio

from tests.performance.api import create, remove
from tests.performance.figures import Figure, median
from tests.performance.inside import vmm_of
from tests.performance.memory import guest_private_kb, smaps_kb
from tests.vm.platform import Platform

SANDBOXES = 10
MEMORY_MB = 512
IDLE_S = 3
LIMIT_MB = 50


async def idle(platform: Platform, _rounds: int) -> list[Figure]:
    """PSS of the VMMs of idle sandboxes, split."""
    async with platform.client() as api:
        ids = [await create(api, memory_mb=MEMORY_MB) for _ in range(SANDBOXES)]
        await asyncio.sleep(IDLE_S)
        pids = [vmm_of(platform.data_dir, sandbox_id) for sandbox_id in ids]
        pss = median([smaps_kb(pid)["Pss"] for pid in pids]) / 1024
        guest = median([guest_private_kb(pid, MEMORY_MB) for pid in pids]) / 1024
        private = (
            median([smaps_kb(pid)["Private_Dirty"] + smaps_kb(pid)["Private_Clean"] for pid in pids]) / 1024
        )
        for sandbox_id in ids:
            await remove(api, sandbox_id)
    return [
        Figure(
            f"idle {MEMORY_MB} MB sandbox, memory of its VMM ({SANDBOXES} alive)",
            "33 MB (bare prototype without envd)",
            f"PSS {pss:.0f} MB; private {private:.0f} MB = guest pages {guest:.0f} + VMM {private - guest:.0f}",
            "–",
            f"≤ {LIMIT_MB} MB",
            pss <= LIMIT_MB,
        )
    ]
