"""A host is asked for its lists when something has changed, and not otherwise. About 8 s."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime

import pytest

from wrenn.base.clock import SystemClock
from wrenn.base.errors import Unavailable
from wrenn.base.ids import SandboxId
from wrenn.control.settings import Settings
from wrenn.testing.agent_host import AgentHost

from .conftest import DEADLINE_S, Platform, make_team, run_sql, running_platform

CALLS = ("list_sandboxes", "list_snapshots")
QUIET_S = 1.2
"""Six intervals of the control plane's loops."""


class AdvancedClock(SystemClock):
    """A clock that a test can set forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


@pytest.fixture
def clock() -> AdvancedClock:
    return AdvancedClock()


@pytest.fixture
async def platform(
    settings: Settings, host: AgentHost, database_url: str, clock: AdvancedClock
) -> AsyncIterator[Platform]:
    key = await make_team(database_url, "ada")
    async with running_platform(settings, host, key, clock=clock) as platform:
        yield platform


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


async def wait_quiet(platform: Platform) -> dict[str, int]:
    """Wait until the host is not called any more, and return how often it was."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            before = {name: platform.host.calls[name] for name in CALLS}
            await asyncio.sleep(QUIET_S)
            if before == {name: platform.host.calls[name] for name in CALLS}:
                return before


async def test_a_host_is_asked_only_when_something_has_changed(platform: Platform):
    path = await platform.create()
    quiet = await wait_quiet(platform)
    # The digest changes with what the host has, here without a call of the control plane.
    planted = str(SandboxId.new())
    await platform.host.plant(planted)
    async with asyncio.timeout(DEADLINE_S):
        while planted in platform.host.sandbox_ids:
            await asyncio.sleep(0.05)
    again = await wait_quiet(platform)
    assert again["list_sandboxes"] > quiet["list_sandboxes"]
    platform.host.kill_guest(id_of(path))
    await platform.wait_status(path, "error")
    assert id_of(path) not in platform.host.sandbox_ids


async def test_every_five_minutes_only_rows_are_looked_at_unless_they_have_changed(
    platform: Platform, clock: AdvancedClock, database_url: str
):
    path = await platform.create()
    quiet = await wait_quiet(platform)
    clock.ahead_s += 300
    assert (await wait_quiet(platform))["list_sandboxes"] == quiet["list_sandboxes"]
    # As by a replica that was killed before it sent the policy to the host.
    await run_sql(
        database_url,
        "UPDATE sandboxes SET network = network || '{\"allow_internet\": false}', network_revision = network_revision + 1",
    )
    assert (await wait_quiet(platform))["list_sandboxes"] == quiet["list_sandboxes"]
    clock.ahead_s += 300
    async with asyncio.timeout(DEADLINE_S):
        while platform.host.record(id_of(path)).network.policy.allow_internet:
            await asyncio.sleep(0.05)
    again = await wait_quiet(platform)
    clock.ahead_s += 3600
    assert (await wait_quiet(platform))["list_sandboxes"] > again["list_sandboxes"], "every hour in any case"


async def test_activity_comes_with_the_heartbeats(platform: Platform):
    path = await platform.create()
    quiet = await wait_quiet(platform)
    # Later than any that the control plane has heard of.
    await asyncio.sleep(2)
    used_at = platform.host.age(id_of(path), 0)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = datetime.fromisoformat((await platform.api.get(path)).json()["last_active_at"])
            if found.timestamp() == int(used_at):
                break
            await asyncio.sleep(0.05)
    assert platform.host.calls["list_sandboxes"] == quiet["list_sandboxes"]


async def test_a_call_that_failed_is_a_reason_to_look_at_the_host(platform: Platform):
    path = await platform.create()
    quiet = await wait_quiet(platform)
    platform.host.switches.fail["set_network"] = Unavailable("silent")
    answer = await platform.api.patch(f"{path}/network", json={"allow_internet": False})
    assert answer.status_code == 503
    platform.host.switches.fail.clear()
    async with asyncio.timeout(DEADLINE_S):
        while platform.host.record(id_of(path)).network.policy.allow_internet:
            await asyncio.sleep(0.05)
    assert (await wait_quiet(platform))["list_sandboxes"] > quiet["list_sandboxes"]
