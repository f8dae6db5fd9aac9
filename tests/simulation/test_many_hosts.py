"""A hundred hosts of which ten lose their agents at once, in virtual time and with the settings of production."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

import pytest

from tests.simulation.database import Server
from tests.simulation.fleet_scenario import FleetScenario, play_scenario
from wrenn.base.ids import HostId
from wrenn.control.sandboxes.types import CreateSandbox

HOSTS: Final = 100
KILLED: Final = 10
SANDBOXES: Final = 150
AT_ONCE: Final = 10
TRUE_WITHIN_S: Final = 95.0
BACK_WITHIN_S: Final = 30.0


class ManyHosts(FleetScenario):
    """The hosts, and one replica."""

    def __init__(self, folder: Path, database_url: str) -> None:
        super().__init__(1, folder, database_url, replicas=1, interval_s=3, missing_after_s=90)

    async def run(self) -> None:
        """Place sandboxes, kill agents, and look at what the control plane knows."""
        await self.start(HOSTS)
        for _ in range(SANDBOXES // AT_ONCE):
            await asyncio.gather(*(self.make() for _ in range(AT_ONCE)))
        assert Counter([status async for _, status in self.states()]) == {"running": SANDBOXES}
        await asyncio.sleep(self.random.uniform(0, 30))
        silent = self.random.sample(self.hosts, KILLED)
        killed_at = asyncio.get_running_loop().time()
        for host in silent:
            host.kill()
        true_s = await self.wait_true({host.host_id for host in silent}, TRUE_WITHIN_S)
        self.fleet.note(f"true {true_s:.0f} s after {killed_at:.0f} s")
        await asyncio.gather(*(self.keep_running(host.start, host.name) for host in silent))
        back_s = await self.wait_true(set(), BACK_WITHIN_S)
        self.fleet.note(f"all are back after {back_s:.0f} s")
        await self.close()

    async def make(self) -> None:
        await self.attempt(
            "create",
            lambda control: control.services.creations.create(
                self.caller, CreateSandbox.model_validate({}), None
            ),
        )

    async def states(self) -> AsyncGenerator[tuple[str, str]]:
        """Host and status of each sandbox."""
        for row in await self.ask("SELECT host_id, status FROM sandboxes ORDER BY id"):
            yield str(HostId(row.host_id)), row.status

    async def wait_true(self, silent: set[str], within_s: float) -> float:
        """Wait until the sandboxes of these hosts are missing, and all others are running. Returns how long that took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            wrong = Counter[tuple[str, str]]()
            async for host_id, status in self.states():
                if status != ("missing" if host_id in silent else "running"):
                    wrong[host_id, status] += 1
                # At no time is anything taken for ended.
                assert status in ("running", "missing"), status
            passed_s = loop.time() - began
            if not wrong:
                return passed_s
            assert passed_s < within_s, wrong
            await asyncio.sleep(1)


# Two minutes of two cores: not in `make test`.
@pytest.mark.all_faults
@pytest.mark.timeout(600)
def test_of_100_hosts_10_lose_their_agents_and_all_sandboxes_have_a_true_state_within_95_seconds(
    server: Server,
) -> None:
    play_scenario(ManyHosts, server)
