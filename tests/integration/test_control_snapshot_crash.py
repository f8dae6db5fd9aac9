"""kill -9 of the control plane at each step of pause, resume, snapshot and fork: afterwards all is as before, or as after."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import select

from wrenn.agent.sandboxes import State
from wrenn.control.db import Database
from wrenn.control.sandboxes.tables import sandboxes
from wrenn.control.templates import templates
from wrenn.testing.agent_host import AgentHost

from .conftest import DEADLINE_S, environment_of, make_team
from .test_control_crash import Crashing, died


@pytest.fixture
async def crashing(data_dir: Path, database_url: str, host: AgentHost, unused_tcp_port: int) -> Crashing:
    environment = environment_of(data_dir, database_url)
    return Crashing(environment, unused_tcp_port, await make_team(database_url, "ada"), host)


async def killed(crashing: Crashing, fault: str, verb: str, body: dict[str, object] | None = None) -> str:
    """The path of a sandbox; the control plane was killed at this point of this call to it."""
    async with crashing.started(f"{fault}=kill") as (api, process):
        path = f"/v1/sandboxes/{(await api.post('/v1/sandboxes', json={})).json()['id']}"
        if verb == "resume":
            assert (await api.post(f"{path}/pause")).status_code == 200
        with contextlib.suppress(httpx2.TransportError):
            if verb == "snapshot":
                await api.post("/v1/snapshots", json={"sandbox_id": path.rpartition("/")[2], "name": "own"})
            else:
                await api.post(f"{path}/{verb}", json=body)
        await died(process)
    return path


async def works(api: httpx2.AsyncClient, path: str) -> None:
    answer = await api.post(f"{path}/exec", json={"cmd": "true"})
    assert (answer.status_code, answer.json()["exit_code"]) == (200, 0)


@pytest.mark.parametrize("point", ["after_desired", "after_rpc", "after_apply"])
async def test_a_pause_goes_on_after_a_kill(crashing: Crashing, host: AgentHost, point: str):
    path = await killed(crashing, f"control.pause.{point}", "pause")
    async with crashing.started() as (api, _):
        async with asyncio.timeout(DEADLINE_S):
            while (await api.get(path)).json()["status"] != "paused":
                await asyncio.sleep(0.05)
        assert host.state(path.rpartition("/")[2]) == State.PAUSED
        assert (await api.post(f"{path}/resume")).status_code == 200
        await works(api, path)


@pytest.mark.parametrize("point", ["after_desired", "after_rpc", "after_apply"])
async def test_a_resume_goes_on_after_a_kill(crashing: Crashing, host: AgentHost, point: str):
    path = await killed(crashing, f"control.resume.{point}", "resume")
    async with crashing.started() as (api, _):
        async with asyncio.timeout(DEADLINE_S):
            while (await api.get(path)).json()["status"] != "running":
                await asyncio.sleep(0.05)
        await works(api, path)


@pytest.mark.parametrize("point", ["after_insert", "after_rpc", "after_apply"])
async def test_a_snapshot_is_whole_or_not_there_after_a_kill(
    crashing: Crashing, host: AgentHost, database: Database, point: str
):
    path = await killed(crashing, f"control.snapshot.{point}", "snapshot")
    done = point == "after_apply"
    async with crashing.started() as (api, _):
        await settled(database, host, snapshots=1 if done else 0)
        names = [t["name"] for t in (await api.get("/v1/snapshots", params={"type": "snapshot"})).json()]
        assert names == (["own"] if done else [])
        await works(api, path)
        body = {"sandbox_id": path.rpartition("/")[2], "name": "own"}
        again = await api.post("/v1/snapshots", json=body, params={"overwrite": "true"})
        assert again.status_code == 201
        assert (await api.post("/v1/sandboxes", json={"template": "own"})).status_code == 201
        await settled(database, host, snapshots=1)


@pytest.mark.parametrize("point", ["after_snapshot", "after_insert", "after_apply"])
async def test_a_fork_is_complete_or_absent_after_a_kill(
    crashing: Crashing, host: AgentHost, database: Database, point: str
):
    path = await killed(crashing, f"control.fork.{point}", "fork", {"count": 3})
    async with crashing.started() as (api, _):
        await settled(database, host, snapshots=0)
        listed = (await api.get("/v1/sandboxes")).json()
        assert [sandbox["status"] for sandbox in listed] == ["running"] * (4 if point == "after_apply" else 1)
        # A call of the killed process may reach the host late: the comparison removes what came of it.
        async with asyncio.timeout(DEADLINE_S):
            while host.sandbox_ids != {sandbox["id"] for sandbox in listed}:
                await asyncio.sleep(0.05)
        await works(api, path)
        assert (await api.post(f"{path}/fork", json={})).status_code == 201


async def settled(database: Database, host: AgentHost, *, snapshots: int) -> None:
    """Return when there are so many snapshots, on the host and as rows, and no sandbox has something to be done."""
    busy = select(sandboxes.c.id).where(
        sandboxes.c.status.not_in(["stopped", "error"]), sandboxes.c.status != sandboxes.c.desired
    )
    async with asyncio.timeout(DEADLINE_S):
        while (
            (await database.execute(busy)).all()
            or len((await database.execute(templates.select().where(templates.c.type == "snapshot"))).all())
            != snapshots
            or len(host.snapshot_ids) != snapshots
        ):
            await asyncio.sleep(0.05)
