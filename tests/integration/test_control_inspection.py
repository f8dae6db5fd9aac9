"""Ports on which a sandbox listens, and all its programs: what is seen, that looking is no activity, and what refuses it.

Guests of the simulated driver share the machine's processes and ports, so tests look for their own.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from wrenn.base.ids import SandboxId
from wrenn.testing.server import free_port
from wrenn.vm.simulated.machine import LOG_NAME

from .conftest import DEADLINE_S, Platform, client, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's, with a team of the test's own."""
    return team_platform


@pytest_asyncio.fixture(loop_scope="module")
async def path(platform: Platform) -> str:
    return await platform.create()


async def port_of(platform: Platform, path: str, port: int) -> dict[str, Any]:
    """What is said of this port, once something is."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            answer = await platform.api.get(f"{path}/ports")
            assert answer.status_code == 200, answer.text
            if found := [each for each in answer.json()["ports"] if each["port"] == port]:
                assert len(found) == 1
                return found[0]
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("address", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("::1", "::1")]
)
async def test_a_port_that_a_program_listens_on_is_listed(platform: Platform, address: str, shown: str):
    port = free_port()
    path = await platform.create(public_ports=[port])
    sandbox_id = path.rpartition("/")[2]
    started = await platform.api.post(
        f"{path}/exec",
        json={
            "cmd": "python3",
            "args": ["-m", "http.server", str(port), "--bind", address],
            "background": True,
        },
    )
    found = await port_of(platform, path, port)
    assert found["addresses"] == [shown]
    assert found["name"].startswith("python")
    assert found["pid"] == started.json()["pid"]
    assert found["public"] is True
    assert found["host"].startswith(f"{port}-{sandbox_id}.")
    async with client(platform.url, None) as visitor:
        page = await visitor.get("/", headers={"Host": found["host"]})
        assert page.status_code == 200, "the host is one under which it is visited"
    assert 49983 not in [each["port"] for each in (await platform.api.get(f"{path}/ports")).json()["ports"]]


async def test_all_programs_are_listed_with_what_they_use(platform: Platform, path: str):
    code = "while True: pass\n#" + "x" * 2000
    started = await platform.api.post(
        f"{path}/exec", json={"cmd": "python3", "args": ["-c", code], "background": True, "tag": "busy"}
    )
    pid = started.json()["pid"]

    async def read() -> tuple[int, dict[str, Any]]:
        answer = (await platform.api.get(f"{path}/processes/all")).json()
        return answer["at_ms"], next(each for each in answer["processes"] if each["pid"] == pid)

    first_ms, first = await read()
    async with asyncio.timeout(DEADLINE_S):
        while (later := await read())[1]["cpu_ms"] < first["cpu_ms"] + 100:
            await asyncio.sleep(0.1)
    assert later[0] > first_ms
    assert (first["managed"], first["tag"], first["user"]) == (True, "busy", "root")
    assert first["command"].startswith("python3 -c while True: pass #x")
    assert len(first["command"]) <= 512
    assert first["memory_bytes"] > 2**20
    assert first["threads"] >= 1
    others = (await platform.api.get(f"{path}/processes/all")).json()["processes"]
    assert any(not each["managed"] for each in others), "also those that nobody started through the API"
    assert len(others) <= 1024
    assert (await platform.api.delete(f"{path}/processes/{pid}")).status_code == 204


async def test_looking_is_no_activity_and_wakes_nothing(platform: Platform):
    path = await platform.create(timeout_sec=1, auto_resume=True)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            answer = await platform.api.get(f"{path}/ports")
            if answer.status_code != 200:
                break
            await platform.api.get(f"{path}/processes/all")
            await asyncio.sleep(0.05)
    # It was paused although somebody looked all the time; and a look does not resume it.
    refused(answer, 409, "invalid_state")
    await platform.wait_status(path, "paused")
    for rest in ("ports", "processes/all"):
        refused(await platform.api.get(f"{path}/{rest}"), 409, "invalid_state")
    assert (await platform.api.get(path)).json()["status"] == "paused"


async def test_nobody_looks_into_a_sandbox_of_others(platform: Platform, path: str):
    async with client(platform.url, await platform.other_team()) as stranger:
        for rest in ("ports", "processes/all"):
            refused(await stranger.get(f"{path}/{rest}"), 404, "not_found")


async def test_a_host_of_an_older_release_says_so(platform: Platform, path: str):
    platform.host.switches.unknown |= {"list_listeners", "list_all_processes"}
    try:
        for rest in ("ports", "processes/all"):
            assert "older release" in refused(await platform.api.get(f"{path}/{rest}"), 409, "invalid_state")
    finally:
        platform.host.switches.unknown.clear()


async def test_a_host_that_does_not_answer_is_no_empty_list(platform: Platform, path: str):
    platform.host.switches.lose_answer.add("list_listeners")
    try:
        answer: httpx2.Response = await platform.api.get(f"{path}/ports")
        refused(answer, 503, "host_unavailable")
    finally:
        platform.host.switches.lose_answer.clear()


async def test_the_console_is_read_without_the_guest(platform: Platform, path: str):
    sandbox_id = path.rpartition("/")[2]
    log = console_of(platform, sandbox_id)
    log.write_bytes(b"x" * 200_000 + b"\x1b[31mpanic\xff\x00\n")
    before = (await platform.api.get(path)).json()["last_active_at"]
    text = (await platform.api.get(f"{path}/console")).json()["text"]
    assert text.endswith("x\x1b[31mpanic\ufffd\x00\n")
    assert len(text.encode()) <= 66 * 1024
    assert (await platform.api.get(path)).json()["last_active_at"] == before
    # A guest that does not answer is not asked.
    platform.host.set_suspended(sandbox_id, "Its disk is full.")
    assert (await platform.api.get(f"{path}/console")).json()["text"] == text
    platform.host.set_suspended(sandbox_id, "")
    async with client(platform.url, await platform.other_team()) as stranger:
        refused(await stranger.get(f"{path}/console"), 404, "not_found")
    platform.host.switches.unknown.add("get_console")
    assert "older release" in refused(await platform.api.get(f"{path}/console"), 409, "invalid_state")
    platform.host.switches.unknown.clear()
    await platform.api.post(f"{path}/pause")
    refused(await platform.api.get(f"{path}/console"), 409, "invalid_state")


def console_of(platform: Platform, sandbox_id: str) -> Path:
    """The file in which the simulated driver keeps what the first process of a guest wrote."""
    running = platform.host.agent.sandboxes.get(SandboxId.parse(sandbox_id))
    return running.vm.handle.directory / LOG_NAME
