"""kill -9 of agent and control plane while samples are on their way: none is stored twice, and none that was written is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from wrenn.agent.enrolment import PendingRegistration
from wrenn.base.faults import arm_faults
from wrenn.base.ids import SandboxId
from wrenn.control.fleet import issue_local_token
from wrenn.control.settings import Settings
from wrenn.testing.simulated_agent import AgentProcess, remove_everything

from .conftest import DEADLINE_S, ControlPlane, make_team, running_control_plane


@pytest.fixture
async def control(settings: Settings, database_url: str) -> AsyncIterator[ControlPlane]:
    async with running_control_plane(settings, await make_team(database_url, "ada")) as control:
        yield control


@pytest.fixture
def faults(tmp_path: Path) -> Path:
    """The faults of the agent, to be written at any time."""
    path = tmp_path / "faults"
    path.write_text("")
    return path


@pytest.fixture
async def agent(tmp_path: Path, control: ControlPlane, faults: Path) -> AsyncIterator[AgentProcess]:
    """An agent as a process, registered and online, that samples twenty times a second."""
    process = AgentProcess(tmp_path / "agent", WRENN_SAMPLE_INTERVAL_S="0.05")
    _, token = await issue_local_token(str(control.settings.database_url), name="one")
    PendingRegistration(control.url, token.reveal()).save(process.data_dir)
    await process.start(faults=f"@{faults}")
    yield process
    await process.kill()
    await remove_everything(process.data_dir)


async def created(control: ControlPlane) -> str:
    """A sandbox, once its host is known to answer."""
    async with asyncio.timeout(DEADLINE_S):
        while (answer := await control.api.post("/v1/sandboxes", json={})).status_code == 503:
            await asyncio.sleep(0.1)
    assert answer.status_code == 201, answer.text
    return f"/v1/sandboxes/{answer.json()['id']}"


async def times(control: ControlPlane, path: str) -> list[int]:
    answer = await control.api.get(f"{path}/metrics", params={"range": "5m"})
    return [point["timestamp_ms"] for point in answer.json()["points"]] if answer.status_code == 200 else []


async def batches(control: ControlPlane, path: str) -> list[str]:
    found = await control.control.database.execute(
        text("SELECT tier FROM sandbox_samples WHERE sandbox_id = :id ORDER BY tier"),
        {"id": SandboxId.parse(path.rpartition("/")[2]).value},
    )
    return list(found.scalars())


async def until_stored(control: ControlPlane, path: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await batches(control, path) != ["10m", "24h", "2h"]:
            await asyncio.sleep(0.05)


async def with_points(control: ControlPlane, count: int = 10) -> str:
    """A sandbox that has so many points."""
    path = await created(control)
    async with asyncio.timeout(DEADLINE_S):
        while len(await times(control, path)) < count:
            await asyncio.sleep(0.05)
    return path


@pytest.mark.parametrize("point", ["before_send", "after_send"])
async def test_an_agent_killed_while_it_sends_sends_again(
    control: ControlPlane, agent: AgentProcess, faults: Path, point: str
):
    path = await with_points(control)
    faults.write_text(f"agent.metrics.{point}=kill")
    await control.api.post(f"{path}/pause")
    await agent.wait_killed()
    await agent.start()
    await until_stored(control, path)
    async with asyncio.timeout(DEADLINE_S):
        while list((agent.data_dir / "metrics").iterdir()):
            await asyncio.sleep(0.05)
    assert await batches(control, path) == ["10m", "24h", "2h"]
    assert len(await times(control, path)) >= 10


async def test_an_agent_killed_before_it_has_written_loses_only_what_was_in_memory(
    control: ControlPlane, agent: AgentProcess, faults: Path
):
    path, other = await with_points(control), await with_points(control)
    assert (await control.api.post(f"{path}/pause")).status_code == 200
    await until_stored(control, path)
    known = await times(control, path)
    faults.write_text("agent.metrics.before_outbox=kill")
    await control.api.post(f"{other}/pause")
    await agent.wait_killed()
    await agent.start()
    assert await times(control, path) == known
    assert await batches(control, other) == []


async def test_a_control_plane_that_fails_while_it_stores_is_sent_the_samples_again(
    control: ControlPlane, agent: AgentProcess
):
    path = await with_points(control)
    arm_faults("control.samples.before_commit=error")
    assert (await control.api.post(f"{path}/pause")).status_code == 200
    await asyncio.sleep(0.5)
    assert await batches(control, path) == []
    # The host still has what is not stored.
    assert len(await times(control, path)) >= 10
    arm_faults("")
    await agent.stop()
    await agent.start()
    await until_stored(control, path)
