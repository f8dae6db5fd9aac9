"""A host that falls silent at once, as by a loss of power: creates that begin some seconds later are not held up by it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from tests.simulation.database import Server
from tests.simulation.fleet_scenario import FAILED, FleetScenario, play_scenario
from wrenn.control.sandboxes.types import CreateSandbox

KNOWN_AFTER_S: Final = 5.0
LOOKED_AT_S: Final = 60.0
QUICK_S: Final = 3.0


class SilentHost(FleetScenario):
    """Two hosts with the settings of production, of which one falls silent while sandboxes are created."""

    def __init__(self, folder: Path, database_url: str) -> None:
        super().__init__(1, folder, database_url, replicas=1, interval_s=3, missing_after_s=90)

    async def run(self) -> None:
        """Create a sandbox every second, and see which creates fail or take long."""
        await self.start(2)
        for _ in range(4):
            assert await self.create_one() is not None
        loop = asyncio.get_running_loop()
        silent_at = loop.time()
        for replica in self.replicas:
            self.fleet.cut_link(self.hosts[0].address, replica.address)
        wrong: list[str] = []

        async def create_and_note() -> None:
            began = loop.time()
            made = await self.create_one()
            took_s = loop.time() - began
            if began - silent_at >= KNOWN_AFTER_S and (made is None or took_s > QUICK_S):
                wrong.append(f"begun after {began - silent_at:.1f} s, took {took_s:.1f} s: {made}")

        async with asyncio.TaskGroup() as group:
            while loop.time() < silent_at + LOOKED_AT_S:
                group.create_task(create_and_note())
                await asyncio.sleep(1)
        assert not wrong, wrong
        await self.close()

    async def create_one(self) -> str | None:
        """Id of a new sandbox; None: there was none."""
        made = await self.attempt(
            "create",
            lambda control: control.services.creations.create(
                self.caller, CreateSandbox.model_validate({}), None
            ),
        )
        return None if made is FAILED else str(made.sandbox_id)


def test_creates_that_begin_5_seconds_after_a_host_fell_silent_are_placed_elsewhere(server: Server) -> None:
    play_scenario(SilentHost, server)
