"""Steps of creates, pauses and resumes: with the state that they end in, and one by one while a slow one goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from wrenn.base.faults import arm_faults

from .conftest import DEADLINE_S, Platform
from .event_reader import Reader, reading

pytestmark = pytest.mark.asyncio(loop_scope="module")

STARTED = ["template", "network", "disk", "machine", "guest"]
PAUSED = ["calls", "freeze", "memory", "snapshot", "release"]
RESUMED = ["check", "network", "disk", "machine", "guest"]


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's, with a team of the test's own."""
    return team_platform


@pytest.fixture
def slow() -> None:
    """Some steps take longer than a call that is not followed."""
    arm_faults(
        "agent.create.after_disk=sleep:1,agent.pause.after_freeze=sleep:1,agent.resume.after_disk=sleep:1"
    )


def names(event: dict[str, Any]) -> list[str]:
    """The steps that an event has."""
    return [step["name"] for step in event["data"]["steps"]]


async def until(reader: Reader, kind: str) -> list[tuple[str, dict[str, Any]]]:
    """The events up to and with the first of this type."""
    found: list[tuple[str, dict[str, Any]]] = []
    while not found or found[-1][0] != kind:
        found += await reader.take(1, with_progress=True)
    return found


async def test_the_end_of_an_operation_has_its_steps(platform: Platform):
    async with reading(platform.api, types="sandbox") as reader:
        path = await platform.create()
        for verb in ("pause", "resume"):
            await platform.api.post(f"{path}/{verb}")
        seen = await until(reader, "sandbox.resumed")
    by_kind = dict(seen)
    assert names(by_kind["sandbox.running"]) == STARTED
    assert names(by_kind["sandbox.paused"]) == PAUSED
    assert names(by_kind["sandbox.resumed"]) == RESUMED
    for kind in ("sandbox.running", "sandbox.paused", "sandbox.resumed"):
        assert all(0 <= step["ms"] < DEADLINE_S * 1000 for step in by_kind[kind]["data"]["steps"])
    assert "steps" not in by_kind["sandbox.created"]["data"]


@pytest.mark.usefixtures("slow")
async def test_a_slow_operation_is_seen_step_by_step(platform: Platform):
    async with reading(platform.api, types="sandbox") as reader:
        path = await platform.create()
        seen = await until(reader, "sandbox.running")
        await platform.api.post(f"{path}/pause")
        seen += await until(reader, "sandbox.paused")
        await platform.api.post(f"{path}/resume")
        seen += await until(reader, "sandbox.resumed")
    for operation, end, steps in (
        ("create", "sandbox.running", STARTED),
        ("pause", "sandbox.paused", PAUSED),
        ("resume", "sandbox.resumed", RESUMED),
    ):
        progress = [
            event
            for kind, event in seen
            if kind == "sandbox.progress" and event["data"]["operation"] == operation
        ]
        assert progress, operation
        for event in progress:
            assert names(event) == steps[: len(names(event))]
            assert event["resource_id"] == path.rpartition("/")[2]
        assert len({len(names(event)) for event in progress}) == len(progress), "only what is new is an event"
        [last] = [event for kind, event in seen if kind == end]
        assert names(last) == steps
        assert sum(step["ms"] for step in last["data"]["steps"]) >= 1000


@pytest.mark.usefixtures("slow")
async def test_a_host_of_an_older_release_is_followed_in_silence(platform: Platform):
    platform.host.switches.unknown.add("get_steps")
    try:
        async with reading(platform.api, types="sandbox") as reader:
            path = await platform.create()
            seen = await until(reader, "sandbox.running")
    finally:
        platform.host.switches.unknown.clear()
    assert [kind for kind, _ in seen] == ["sandbox.created", "sandbox.running"]
    assert (await platform.api.get(path)).json()["status"] == "running"


@pytest.mark.usefixtures("slow")
async def test_the_end_of_a_call_ends_its_questions(platform: Platform):
    path = await platform.create()
    before = platform.host.calls["get_steps"]
    assert before >= 1
    await asyncio.sleep(1.2)
    assert platform.host.calls["get_steps"] == before
    await platform.api.delete(path)
