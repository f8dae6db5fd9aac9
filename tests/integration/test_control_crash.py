"""kill -9 of the control plane at each named step: after a restart, database and host agree."""

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

from wrenn.base.secrets import Secret
from wrenn.testing.agent_host import AgentHost
from wrenn.testing.fork_server import ForkedProgram

from .conftest import DEADLINE_S, client, control_process, environment_of, make_team

KEY = {"Idempotency-Key": "crash"}


@dataclass
class Crashing:
    """Starts control planes on one database and one port."""

    environment: dict[str, str]
    port: int
    key: Secret
    host: AgentHost

    @asynccontextmanager
    async def started(self, faults: str = "") -> AsyncGenerator[tuple[httpx2.AsyncClient, ForkedProgram]]:
        environment = self.environment | {"WRENN_FAULTS": faults}
        async with (
            control_process(environment, self.port, self.host) as process,
            client(f"http://127.0.0.1:{self.port}", self.key) as api,
        ):
            yield api, process


@pytest.fixture
async def crashing(data_dir: Path, database_url: str, host: AgentHost, unused_tcp_port: int) -> Crashing:
    environment = environment_of(data_dir, database_url)
    return Crashing(environment, unused_tcp_port, await make_team(database_url, "ada"), host)


async def died(process: ForkedProgram) -> None:
    async with asyncio.timeout(DEADLINE_S):
        assert await process.wait_ended() == -signal.SIGKILL


@pytest.mark.parametrize("point", ["after_insert", "after_rpc", "after_apply"])
async def test_a_create_goes_on_after_a_kill(crashing: Crashing, host: AgentHost, point: str):
    async with crashing.started(f"control.create.{point}=kill") as (api, process):
        with contextlib.suppress(httpx2.TransportError):
            await api.post("/v1/sandboxes", json={}, headers=KEY)
        await died(process)
    async with crashing.started() as (api, _):
        answer = await api.post("/v1/sandboxes", json={}, headers=KEY)
        assert answer.status_code == 201, answer.text
        assert answer.json()["status"] == "running"
        assert host.sandbox_ids == {answer.json()["id"]}
        assert len((await api.get("/v1/sandboxes")).json()) == 1


@pytest.mark.parametrize("point", ["after_desired", "after_rpc", "after_apply"])
async def test_a_delete_goes_on_after_a_kill(crashing: Crashing, host: AgentHost, point: str):
    async with crashing.started(f"control.delete.{point}=kill") as (api, process):
        path = f"/v1/sandboxes/{(await api.post('/v1/sandboxes', json={})).json()['id']}"
        with contextlib.suppress(httpx2.TransportError):
            await api.delete(path)
        await died(process)
    async with crashing.started() as (api, _):
        async with asyncio.timeout(DEADLINE_S):
            while (await api.get(path)).json()["status"] != "stopped":
                await asyncio.sleep(0.05)
        assert not host.sandbox_ids


async def test_a_kill_before_an_exec_leaves_the_sandbox_as_it_was(crashing: Crashing, host: AgentHost):
    async with crashing.started("control.exec.before_rpc=kill") as (api, process):
        path = f"/v1/sandboxes/{(await api.post('/v1/sandboxes', json={})).json()['id']}"
        with contextlib.suppress(httpx2.TransportError):
            await api.post(f"{path}/exec", json={"cmd": "touch", "args": ["/root/touched"]})
        await died(process)
    async with crashing.started() as (api, _):
        answer = await api.post(f"{path}/exec", json={"cmd": "ls"})
        assert (answer.status_code, answer.json()["stdout"]) == (200, "")


async def test_a_stop_ends_the_program_and_leaves_the_sandboxes(crashing: Crashing, host: AgentHost):
    async with crashing.started() as (api, process):
        await api.post("/v1/sandboxes", json={})
        process.terminate()
        async with asyncio.timeout(DEADLINE_S):
            assert await process.wait_ended() == 0, "its clean-up was cut short"
    assert len(host.sandbox_ids) == 1
