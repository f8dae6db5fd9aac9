"""Kill each process at each named step of create, exec and delete. Afterwards: the database is true, `wrenn doctor` lists
nothing, and a sandbox that ran before still answers with its files.

`make test` kills at some points here, and at all of them over the simulated driver (`tests/agent/test_faults.py`,
`tests/integration/test_control_crash.py`); `make test-faults` kills at all of them here too.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import httpx2
import pytest

from tests.vm.platform import Platform

pytestmark = pytest.mark.slow

AGENT = [
    "agent.create.after_journal",
    "agent.create.after_slot",
    "agent.create.after_disk",
    "agent.create.after_spawn",
    "agent.create.after_ready",
    "agent.create.after_running",
    "agent.delete.after_journal",
    "agent.delete.after_kill",
    "agent.delete.after_network",
]
BASE = ["agent.base.after_draft", "agent.base.after_spawn", "agent.base.after_save"]
CONTROL = [
    "control.create.after_insert",
    "control.create.after_rpc",
    "control.create.after_apply",
    "control.delete.after_desired",
    "control.delete.after_rpc",
    "control.exec.before_rpc",
]
SAMPLE = {
    "agent.create.after_spawn",
    "agent.delete.after_kill",
    "agent.base.after_spawn",
    # The control plane does not know what runs its sandboxes: the simulated driver shows the same.
    "control.create.after_rpc",
}


def points(names: list[str], sample: set[str]) -> list[Any]:
    """Every step; those outside the sample only run with `make test-faults`."""
    return [pytest.param(name, marks=() if name in sample else pytest.mark.all_faults) for name in names]


async def create(api: httpx2.AsyncClient) -> dict[str, Any]:
    answer = await api.post("/v1/sandboxes", json={"memory_mb": 256})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def write_file(api: httpx2.AsyncClient, sandbox_id: str) -> None:
    exec_ = {"cmd": "/bin/sh", "args": ["-c", "echo precious > /root/kept && sync"]}
    assert (await api.post(f"/v1/sandboxes/{sandbox_id}/exec", json=exec_)).json()["exit_code"] == 0


async def assert_intact(api: httpx2.AsyncClient, sandbox_id: str) -> None:
    answer = await api.post(f"/v1/sandboxes/{sandbox_id}/exec", json={"cmd": "cat", "args": ["/root/kept"]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["stdout"] == "precious\n"


async def wait_status(api: httpx2.AsyncClient, sandbox_id: str, status: str) -> None:
    """Until the database says so: after a crash another worker goes on when the lease has run out."""
    async with asyncio.timeout(40):
        while (await api.get(f"/v1/sandboxes/{sandbox_id}")).json()["status"] != status:
            await asyncio.sleep(0.05)


async def quietly(call: Any) -> httpx2.Response | None:
    """A call whose server is killed under it."""
    try:
        return await call
    except httpx2.TransportError:
        return None


@pytest.mark.parametrize("point", points(AGENT, SAMPLE))
async def test_an_agent_killed_at_any_step_leaves_nothing_and_disturbs_nobody(
    platform: Platform, point: str
) -> None:
    async with platform.client() as api:
        bystander = (await create(api))["id"]
        await write_file(api, bystander)
        victim = (await create(api))["id"] if "delete" in point else None
        platform.arm("agent", f"{point}=kill")
        if victim is None:
            call = asyncio.create_task(quietly(api.post("/v1/sandboxes", json={"memory_mb": 256})))
        else:
            call = asyncio.create_task(quietly(api.delete(f"/v1/sandboxes/{victim}")))
        await platform.wait_killed("agent")
        platform.start("agent")
        await call
        await platform.wait_ready()
        await platform.settled()
        await assert_intact(api, bystander)
        if victim is not None:
            await wait_status(api, victim, "stopped")
        await api.delete(f"/v1/sandboxes/{bystander}")


@pytest.mark.parametrize("point", points(CONTROL, SAMPLE))
async def test_a_control_plane_killed_at_any_step_goes_on_where_it_was(
    platform: Platform, point: str
) -> None:
    async with platform.client() as api:
        bystander = (await create(api))["id"]
        await write_file(api, bystander)
        platform.arm("control", f"{point}=kill")
        key = {"Idempotency-Key": f"fault-{point}"}
        if "create" in point:
            call = api.post("/v1/sandboxes", json={"memory_mb": 256}, headers=key)
        elif "delete" in point:
            call = api.delete(f"/v1/sandboxes/{bystander}")
        else:
            call = api.post(f"/v1/sandboxes/{bystander}/exec", json={"cmd": "true"})
        assert await quietly(call) is None
        await platform.wait_killed("control")
        platform.start("control")
        await platform.wait_ready()
        if "create" in point:
            answer = await api.post("/v1/sandboxes", json={"memory_mb": 256}, headers=key)
            assert answer.status_code == 201, answer.text
            assert len((await api.get("/v1/sandboxes")).json()) == 2, "the same key made one sandbox"
            await api.delete(f"/v1/sandboxes/{answer.json()['id']}")
        await platform.settled()
        if "delete" in point:
            await wait_status(api, bystander, "stopped")
        else:
            await assert_intact(api, bystander)
            await api.delete(f"/v1/sandboxes/{bystander}")


@pytest.mark.parametrize("point", points(BASE, SAMPLE))
async def test_an_agent_killed_while_it_makes_a_base_makes_it_again(platform: Platform, point: str) -> None:
    shape = {"memory_mb": 160 + BASE.index(point)}  # a shape of its own, so that there is no base yet
    async with platform.client() as api:
        platform.arm("agent", f"{point}=kill")
        call = asyncio.create_task(quietly(api.post("/v1/sandboxes", json=shape)))
        await platform.wait_killed("agent")
        platform.start("agent")
        await call
        await platform.wait_ready()
        answer = await api.post("/v1/sandboxes", json=shape)
        assert answer.status_code == 201, answer.text
        for row in (await api.get("/v1/sandboxes")).json():
            await api.delete(f"/v1/sandboxes/{row['id']}")
        await platform.settled()


async def test_a_killed_vmm_becomes_an_error_with_its_reason(platform: Platform) -> None:
    async with platform.client() as api:
        sandbox = await create(api)
        other = (await create(api))["id"]
        await write_file(api, other)
        name = platform.data_dir / "sandboxes" / sandbox["id"] / "journal.json"
        os.kill(json.loads(name.read_text())["process"]["pid"], signal.SIGKILL)
        await wait_status(api, sandbox["id"], "error")
        assert sandbox["id"] not in [row["id"] for row in (await api.get("/v1/sandboxes")).json()]
        answer = await api.post(f"/v1/sandboxes/{sandbox['id']}/exec", json={"cmd": "true"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "invalid_state")
        await platform.settled()
        await assert_intact(api, other)
        await api.delete(f"/v1/sandboxes/{other}")


async def test_postgresql_killed_under_load_loses_nothing(platform: Platform) -> None:
    async with platform.client() as api:
        bystander = (await create(api))["id"]
        await write_file(api, bystander)
        creating = [
            asyncio.create_task(quietly(api.post("/v1/sandboxes", json={"memory_mb": 256}))) for _ in range(3)
        ]
        postmaster = int((platform.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGKILL)
        answer = await api.get("/v1/sandboxes")
        assert answer.status_code in (200, 503)
        await platform.start_database()
        await asyncio.gather(*creating)
        await platform.settled()
        await assert_intact(api, bystander)
        for row in (await api.get("/v1/sandboxes")).json():
            await api.delete(f"/v1/sandboxes/{row['id']}")
        await platform.settled()


async def test_everything_killed_at_once_comes_back(platform: Platform) -> None:
    async with platform.client() as api:
        kept = (await create(api))["id"]
        await write_file(api, kept)
        creating = asyncio.create_task(quietly(api.post("/v1/sandboxes", json={"memory_mb": 256})))
        await asyncio.sleep(0)
        os.kill(
            int((platform.data_dir / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL
        )
        await asyncio.gather(platform.kill("agent"), platform.kill("control"))
        await creating
        await platform.start_database()
        platform.start("agent")
        platform.start("control")
        await platform.wait_ready()
        await platform.settled()
        await assert_intact(api, kept)
        for row in (await api.get("/v1/sandboxes")).json():
            await api.delete(f"/v1/sandboxes/{row['id']}")
        await platform.settled()
