"""A control plane that is away, or refuses a host, for longer than `WRENN_CP_LOST_AFTER_S`: it costs no work. Takes about 15 s."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from wrenn.agent.enrolment import CredentialsFile, PendingRegistration
from wrenn.base.ids import HostId
from wrenn.base.secrets import Secret
from wrenn.control.db import Database
from wrenn.control.events.tables import events
from wrenn.control.fleet import issue_local_token
from wrenn.testing.simulated_agent import AgentProcess, remove_everything

from .conftest import DEADLINE_S, client, control_process, environment_of, make_team


@dataclass
class Installation:
    """A control plane that can be stopped and started, and its agent, which has the control plane lost after a second."""

    environment: dict[str, str]
    port: int
    key: Secret
    agent: AgentProcess

    @asynccontextmanager
    async def control_plane(self) -> AsyncGenerator[Api]:
        async with (
            control_process(self.environment, self.port),
            client(f"http://127.0.0.1:{self.port}", self.key) as http,
        ):
            yield Api(http)

    async def join(self) -> None:
        _, token = await issue_local_token(self.environment["DATABASE_URL"], name="one")
        PendingRegistration(f"http://127.0.0.1:{self.port}", token.reveal()).save(self.agent.data_dir)
        await self.agent.start()

    def journals(self) -> dict[str, dict[str, Any]]:
        found = (self.agent.data_dir / "sandboxes").glob("*/journal.json")
        return {path.parent.name: json.loads(path.read_text()) for path in found}

    async def wait_journals(self, ids: Iterable[str], state: str) -> None:
        await until(lambda: all(self.journals()[name]["state"] == state for name in ids))

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = self.agent.log.read_text().splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in found if event in str(line)]


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not done():
            await asyncio.sleep(0.05)


@dataclass
class Api:
    http: Any

    async def call(self, method: str, path: str, **more: Any) -> Any:
        answer = await self.http.request(method, path, **more)
        assert answer.status_code < 300, answer.text
        return answer.json()

    async def create(self) -> str:
        """A new sandbox, once its host can be used."""
        async with asyncio.timeout(DEADLINE_S):
            while (answer := await self.http.post("/v1/sandboxes", json={})).status_code == 503:
                await asyncio.sleep(0.1)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    async def run(self, sandbox_id: str, script: str) -> str:
        body = {"cmd": "/bin/sh", "args": ["-c", script]}
        return (await self.call("POST", f"/v1/sandboxes/{sandbox_id}/exec", json=body))["stdout"]

    async def wait_status(self, sandbox_id: str, status: str) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE_S):
            while (found := await self.call("GET", f"/v1/sandboxes/{sandbox_id}"))["status"] != status:
                await asyncio.sleep(0.05)
        return found

    async def pauses(self) -> dict[str, str]:
        """Sandboxes that were paused without a request, with the cause in the audit log."""
        items = (await self.call("GET", "/v1/audit-logs", params={"limit": 100}))["items"]
        return {
            item["resource_id"]: item["metadata"]["cause"]
            for item in items
            if item["action"] == "pause" and item["actor_type"] == "system"
        }


@pytest.fixture
async def installation(
    data_dir: Path, database_url: str, tmp_path: Path, unused_tcp_port: int
) -> AsyncIterator[Installation]:
    environment = environment_of(data_dir, database_url)
    agent = AgentProcess(tmp_path / "agent", WRENN_CP_LOST_AFTER_S="1")
    yield Installation(environment, unused_tcp_port, await make_team(database_url, "ada"), agent)
    await agent.kill()
    await remove_everything(agent.data_dir)


async def test_an_outage_pauses_what_runs_and_its_end_shows_it(
    installation: Installation, database: Database
) -> None:
    agent = installation.agent
    async with installation.control_plane() as api:
        await installation.join()
        running = [await api.create() for _ in range(3)]
        for sandbox_id in running:
            await api.run(sandbox_id, "echo kept >/root/file")
        put_away, unwanted = await api.create(), await api.create()
        await api.call("POST", f"/v1/sandboxes/{put_away}/pause")
    # Nobody serves the control plane now. The agent is replaced meanwhile, and its successor killed when half is done.
    await agent.stop()
    agent.begin(faults="agent.pause.after_manifest#2=kill")
    await agent.wait_killed()
    await agent.start()
    await installation.wait_journals([*running, unwanted], "paused")
    assert installation.journals()[put_away]["cause"] == ""
    async with installation.control_plane() as api:
        for sandbox_id in running:
            said = await api.wait_status(sandbox_id, "paused")
            assert "no contact with the control plane" in said["metadata"]["reason"]
        assert await api.pauses() == dict.fromkeys([*running, unwanted], "control_plane_lost")
        said = await api.wait_status(put_away, "paused")
        assert "reason" not in said["metadata"]
        await until(lambda: bool(installation.logged("contact with the control plane is back")))
        assert not (agent.data_dir / "control-outage.json").exists()
        # It is all there, and stays.
        await api.call("POST", f"/v1/sandboxes/{running[0]}/resume")
        assert await api.run(running[0], "cat /root/file") == "kept\n"
        said = await api.wait_status(running[0], "running")
        assert "reason" not in said["metadata"]
        await api.http.delete(f"/v1/sandboxes/{unwanted}")
        await api.wait_status(running[1], "paused")
    written = await database.execute(
        select(events.c.type, events.c.data).where(events.c.resource_id == running[0]).order_by(events.c.id)
    )
    kinds = {row.type: row.data for row in written}
    assert "no contact with the control plane" in kinds["sandbox.paused"]["reason"]
    assert "sandbox.missing" not in kinds
    assert "sandbox.destroyed" not in kinds


async def test_credentials_that_are_refused_for_long_are_the_same(installation: Installation) -> None:
    agent = installation.agent
    async with installation.control_plane() as api:
        await installation.join()
        sandbox_id, other = await api.create(), await api.create()
        await agent.stop()
        file = CredentialsFile(agent.data_dir).path
        content = json.loads(file.read_text())
        refused = {"host_id": str(HostId.new()), "token": "none", "refresh_token": "0" * 64}
        file.write_text(json.dumps(content | refused))
        await agent.start()
        await installation.wait_journals([sandbox_id, other], "paused")
        file.write_text(json.dumps(content))
        await until(lambda: bool(installation.logged("contact with the control plane is back")))
        for each in (sandbox_id, other):
            await api.wait_status(each, "paused")
        assert await api.pauses() == dict.fromkeys([sandbox_id, other], "control_plane_lost")
