"""kill -9 of the control plane at each step of a registration, a refresh, a drain and a deletion: nothing is half done."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from wrenn.base.ids import HostId
from wrenn.control.fleet import issue_local_token
from wrenn.testing.agent_host import AgentHost
from wrenn.testing.fork_server import ForkedProgram

from .conftest import DEADLINE_S, control_process, environment_of, run_sql
from .host_agents import AgentPlayer
from .people import make_admin, sign_up


@dataclass
class Crashing:
    """Starts control planes on one database and one port."""

    environment: dict[str, str]
    database_url: str
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def started(self, faults: Path) -> AsyncGenerator[ForkedProgram]:
        environment = self.environment | {"WRENN_FAULTS": f"@{faults}"}
        async with control_process(environment, self.port) as process:
            yield process


@pytest.fixture
async def crashing(data_dir: Path, database_url: str, unused_tcp_port: int) -> Crashing:
    return Crashing(environment_of(data_dir, database_url), database_url, unused_tcp_port)


@pytest.fixture
def faults(tmp_path: Path) -> Path:
    path = tmp_path / "faults"
    path.write_text("")
    return path


async def died(process: ForkedProgram) -> None:
    async with asyncio.timeout(DEADLINE_S):
        assert await process.wait_ended() == -signal.SIGKILL


async def token_of_host(crashing: Crashing) -> str:
    _, token = await issue_local_token(crashing.database_url, name="here")
    return token.reveal()


async def test_kills_during_registration_and_refresh(crashing: Crashing, faults: Path):
    player = AgentPlayer(crashing.url)
    token = await token_of_host(crashing)
    async with crashing.started(faults) as process:
        faults.write_text("control.register.before_commit=kill")
        with contextlib.suppress(httpx2.TransportError):
            await player.register(token)
        await died(process)
    faults.write_text("control.register.after_commit=kill")
    async with crashing.started(faults) as process:
        with contextlib.suppress(httpx2.TransportError):
            await player.register(token)
        await died(process)
    # The token was used up and the answer is lost: the host is still pending, and another token registers it.
    faults.write_text("")
    async with crashing.started(faults) as process:
        assert (await player.register(token)).status_code == 401
        assert (await player.register(await token_of_host(crashing))).status_code == 201
        assert (await player.heartbeat()).status_code == 204
        faults.write_text("control.refresh.before_commit=kill")
        with contextlib.suppress(httpx2.TransportError):
            await player.refresh()
        await died(process)
    faults.write_text("control.refresh.after_commit=kill")
    async with crashing.started(faults) as process:
        with contextlib.suppress(httpx2.TransportError):
            await player.refresh()
        await died(process)
    faults.write_text("")
    async with crashing.started(faults):
        assert (await player.heartbeat()).status_code == 204
        assert (await player.refresh()).status_code == 200
        assert (await player.heartbeat()).status_code == 204


async def test_kills_during_deletion(crashing: Crashing, faults: Path, host: AgentHost):
    async with crashing.started(faults) as process:
        await host.join(crashing.url, crashing.database_url)
        root = await sign_up(crashing.url)
        await make_admin(crashing.database_url, root)
        player = AgentPlayer(crashing.url)
        assert (await player.register(await token_of_host(crashing))).status_code == 201
        assert (await player.heartbeat()).status_code == 204
        answer = await root.post("/v1/sandboxes")
        assert answer.status_code == 201, answer.text
        sandbox = f"/v1/sandboxes/{answer.json()['id']}"
        # As if it were on the host of the player, who removes nothing.
        await run_sql(
            crashing.database_url, f"UPDATE sandboxes SET host_id = '{HostId.parse(player.host_id).value}'"
        )
        path, force = f"/v1/hosts/{player.host_id}", {"force": "true"}
        faults.write_text("control.host_delete.before_commit=kill")
        with contextlib.suppress(httpx2.TransportError):
            await root.delete(path, params=force)
        await died(process)
    faults.write_text("control.host_delete.after_commit=kill")
    async with crashing.started(faults) as process:
        assert (await player.heartbeat()).status_code == 204
        assert (await root.get(sandbox)).json()["status"] != "stopped"
        with contextlib.suppress(httpx2.TransportError):
            await root.delete(path, params=force)
        await died(process)
    faults.write_text("")
    async with crashing.started(faults):
        assert (await root.delete(path, params=force)).status_code == 404
        assert (await root.get(sandbox)).json()["status"] == "stopped"
        answer = await player.heartbeat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "host_deleted")


async def test_kills_during_a_drain(crashing: Crashing, faults: Path, host: AgentHost):
    async with crashing.started(faults) as process:
        await host.join(crashing.url, crashing.database_url)
        root = await sign_up(crashing.url)
        await make_admin(crashing.database_url, root)
        made = [await root.post("/v1/sandboxes") for _ in range(3)]
        paths = [f"/v1/sandboxes/{answer.json()['id']}" for answer in made]
        (row,) = (await root.get("/v1/hosts")).json()
        path = f"/v1/hosts/{row['id']}"
        faults.write_text("control.host_drain.before_commit=kill")
        with contextlib.suppress(httpx2.TransportError):
            await root.post(f"{path}/drain", {"policy": "pause"})
        await died(process)
    faults.write_text("")
    async with crashing.started(faults) as process:
        assert "drain" not in (await root.get(path)).json()
        assert (await root.get(paths[0])).json()["status"] == "running"
        faults.write_text("control.host_drain.after_commit=kill")
        with contextlib.suppress(httpx2.TransportError):
            await root.post(f"{path}/drain", {"policy": "pause"})
        await died(process)
    # Killed again after a pause, whose answer is lost with it; and the agent is replaced meanwhile.
    faults.write_text("control.pause.after_rpc=kill")
    async with crashing.started(faults) as process:
        await died(process)
    await host.restart()
    faults.write_text("")
    async with crashing.started(faults):
        async with asyncio.timeout(DEADLINE_S):
            while (await root.get(path)).json()["drain"]["state"] != "drained":
                await asyncio.sleep(0.05)
        for sandbox in paths:
            assert (await root.get(sandbox)).json()["status"] == "paused"
            answer = await root.post(f"{sandbox}/resume")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "host_draining")
        assert (await root.post(f"{path}/uncordon")).status_code == 200
        for sandbox in paths:
            assert (await root.post(f"{sandbox}/resume")).status_code == 200
