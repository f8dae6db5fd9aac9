"""Pauses and snapshots without memory: what the host is asked for, and that nothing of it stays for the next one."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from wrenn.agent.sandboxes import State
from wrenn.base.errors import AgentFailure
from wrenn.base.faults import arm_faults
from wrenn.storage import snapshots

from .conftest import DEADLINE_S, Platform, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's: a test has a team of its own."""
    return team_platform


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


def has_memory(platform: Platform, path: str) -> bool:
    """Whether the last pause of the sandbox saved its memory."""
    record = platform.host.record(id_of(path))
    return snapshots.find(platform.host.agent.layout.snapshots, record.snapshot).manifest.has_memory


async def done(answer: httpx2.Response) -> None:
    assert answer.status_code == 200, answer.text


async def test_a_pause_keeps_the_memory_unless_it_is_asked_not_to(platform: Platform):
    path = await platform.create()
    for body, keeps in (({"keep_memory": False}, False), (None, True), ({"keep_memory": True}, True)):
        await done(await platform.api.post(f"{path}/pause", json=body))
        assert has_memory(platform, path) is keeps
        await done(await platform.api.post(f"{path}/resume"))
    await done(await platform.api.post(f"{path}/pause"))
    await done(await platform.api.post(f"{path}/resume", json={"keep_memory": False}))
    assert platform.host.record(id_of(path)).parent == "", "it booted"


async def test_a_pause_without_memory_that_is_refused_says_nothing_about_the_next_one(platform: Platform):
    path = await platform.create()
    platform.host.switches.fail["pause_sandbox"] = AgentFailure("The sandbox did not write its disk.")
    refused(await platform.api.post(f"{path}/pause", json={"keep_memory": False}), 502, "agent_error")
    platform.host.switches.fail.clear()
    assert platform.host.state(id_of(path)) == State.RUNNING
    await done(await platform.api.post(f"{path}/pause"))
    assert has_memory(platform, path)


@pytest.mark.parametrize("keep", [True, False])
async def test_a_pause_at_the_end_keeps_the_memory_unless_the_sandbox_was_made_without(
    platform: Platform, *, keep: bool
):
    path = await platform.create(lifetime_sec=1, keep_memory_on_pause=keep)
    async with asyncio.timeout(DEADLINE_S):
        while (found := (await platform.api.get(path)).json())["status"] != "paused":
            await asyncio.sleep(0.05)
    assert found["keep_memory_on_pause"] is keep
    assert has_memory(platform, path) is keep


async def test_a_guest_that_does_not_write_its_disk_is_paused_at_the_end_all_the_same(platform: Platform):
    arm_faults("agent.pause.after_settle=error")
    path = await platform.create(lifetime_sec=1, keep_memory_on_pause=False)
    await platform.wait_status(path, "paused")
    assert has_memory(platform, path)


async def test_a_snapshot_without_memory_is_a_template(platform: Platform):
    path = await platform.create()
    await platform.api.post(f"{path}/exec", json={"cmd": "touch", "args": ["/root/kept"]})
    body = {"sandbox_id": id_of(path), "name": "disk-only", "keep_memory": False}
    assert (await platform.api.post("/v1/snapshots", json=body)).status_code == 201
    made = await platform.create(template="disk-only")
    record = platform.host.record(id_of(made))
    assert record.parent == ""
    manifest = snapshots.find(platform.host.agent.layout.snapshots, record.spec.snapshot_id).manifest
    assert not manifest.has_memory
    listed = await platform.api.post(f"{made}/exec", json={"cmd": "ls", "args": ["/root"]})
    assert listed.json()["stdout"] == "kept\n"


@pytest.mark.parametrize("path", ["pause", "resume"])
async def test_what_is_no_answer_to_the_question_is_refused(platform: Platform, path: str):
    sandbox = await platform.create()
    for body in ({"keep_memory": "no"}, {"memory": False}, {"keep_memory": None, "x": 1}):
        refused(await platform.api.post(f"{sandbox}/{path}", json=body), 400, "invalid_request")
    assert platform.host.state(id_of(sandbox)) == State.RUNNING
