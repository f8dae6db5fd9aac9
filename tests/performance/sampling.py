"""CPU time that the samples of sandboxes cost the agent. Runs an agent of its own: `python -m tests.performance.sampling`."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import uvloop

from tests.installations import remove_installation
from tests.vm.kit import created
from wrenn.agent.parts import VmHost
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import running_agent
from wrenn.testing.simulated_agent import agent_environment

SANDBOXES: Final = 10
MEASURED_S: Final = 40.0
SETTLED_S: Final = 3.0
INTERVAL_S: Final = 0.5
LIMIT_PCT: Final = 0.3


async def cost_pct(settings: Settings, *, sandboxes: int) -> float:
    """CPU time of an agent whose sandboxes are idle, in percent of a core."""
    async with running_agent(settings, VmHost()) as agent:
        for _ in range(sandboxes - len(agent.sandboxes.list())):
            await created(agent.sandboxes)
        await asyncio.sleep(SETTLED_S)
        began, used = time.monotonic(), time.process_time()
        await asyncio.sleep(MEASURED_S)
        return (time.process_time() - used) / (time.monotonic() - began) * 100


async def main() -> None:
    """Print the cost with samples and without, and the difference, which is to be at most `LIMIT_PCT`."""
    folder = Path(tempfile.mkdtemp(prefix="wrenn-perf-"))
    environment = {
        **agent_environment(folder),
        "WRENN_IMAGES_DIR": "/var/lib/wrenn",
        "WRENN_READY_SLOTS": "0",
    }
    settings = Settings.from_environment(environment)
    try:
        without = await cost_pct(replace(settings, sample_interval_s=0.0), sandboxes=SANDBOXES)
        sampled = await cost_pct(replace(settings, sample_interval_s=INTERVAL_S), sandboxes=SANDBOXES)
    finally:
        await remove_installation(folder)
        shutil.rmtree(folder, ignore_errors=True)
    cost = sampled - without
    sys.stdout.write(
        f"samples of {SANDBOXES} idle sandboxes: {cost:.2f} % of a core (with {sampled:.2f} %, without {without:.2f} %);"
        f" to reach: {LIMIT_PCT} %\n"
    )
    sys.exit(cost > LIMIT_PCT)


if __name__ == "__main__":
    uvloop.run(main())
