"""`wrenn.events`, `wrenn.audit_log` and `wrenn audit` against a live control plane."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

import pytest

from wrenn.control.audit import SYSTEM, AuditAction, Resource, record
from wrenn.control.events.subscription import Ended
from wrenn.control.quotas import Limits
from wrenn.sdk import (
    AsyncSandbox,
    AuthenticationError,
    Event,
    QuotaExceededError,
    async_audit_log,
    async_events,
    audit_log,
    events,
)

from .conftest import DEADLINE_S, Platform
from .test_control_quotas import set_limits, team_id


class Reach(TypedDict):
    """How the SDK finds the platform."""

    api_key: str
    base_url: str


def reach(platform: Platform) -> Reach:
    return {"api_key": platform.key.reveal(), "base_url": platform.url}


async def take(stream: AsyncGenerator[Event], count: int) -> list[str]:
    """The types of so many events, without those of the progress, which only a slow machine has."""
    found: list[str] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < count:
            kind = (await anext(stream)).type
            if kind != "sandbox.progress":
                found.append(kind)
    return found


async def test_events_go_on_where_they_were_after_a_break(platform: Platform):
    async with aclosing(async_events(types=["ready", "sandbox"], **reach(platform))) as stream:
        assert await take(stream, 1) == ["ready"]
        path = await platform.create()
        assert await take(stream, 2) == ["sandbox.created", "sandbox.running"]
        for verb, kind in (("pause", "paused"), ("resume", "resumed")):
            (subscription,) = platform.control.feed.subscriptions()
            subscription.end(Ended.SLOW)
            await platform.api.post(f"{path}/{verb}")
            event = (await take(stream, 1))[0]
            assert event == f"sandbox.{kind}"
    async with asyncio.timeout(DEADLINE_S):
        while platform.control.feed.subscriptions():
            await asyncio.sleep(0.01)


async def test_the_synchronous_twin_reads_the_same(platform: Platform):
    def follow(after: str) -> list[Event]:
        stream = events(types=["sandbox"], after=after, **reach(platform))
        found = list(islice((event for event in stream if event.type != "sandbox.progress"), 3))
        stream.close()
        return found

    async with aclosing(async_events(types=["ready"], **reach(platform))) as stream:
        begin = (await anext(stream)).id
    path = await platform.create()
    await platform.api.delete(path)
    async with asyncio.timeout(DEADLINE_S):
        found = await asyncio.to_thread(follow, begin)
    assert [event.type for event in found] == ["sandbox.created", "sandbox.running", "sandbox.destroyed"]
    assert {event.resource_id for event in found} == {path.rpartition("/")[2]}
    assert found[0].data["template"] == "minimal"
    assert found[0].at is not None


async def test_a_wrong_key_and_a_quota_are_errors_of_their_own(platform: Platform):
    wrong: Reach = {"api_key": "wrn_" + "0" * 32, "base_url": platform.url}
    with pytest.raises(AuthenticationError):
        await anext(async_events(**wrong))
    await set_limits(platform, Limits(running_sandboxes=0))
    with pytest.raises(QuotaExceededError, match="1 too many"):
        await AsyncSandbox.create(**reach(platform))


async def test_the_log_is_read_page_by_page(platform: Platform):
    await platform.create()
    own, many = await team_id(platform), [str(number) for number in range(230)]
    await platform.control.database.transaction(
        lambda tx: record(tx, own, SYSTEM, AuditAction(Resource.TEAM, "many"), *many)
    )
    entries = [entry async for entry in async_audit_log(**reach(platform))]
    assert [entry.action for entry in entries] == ["many"] * 230 + ["create"]
    assert len({entry.id for entry in entries}) == 231
    some = await asyncio.to_thread(lambda: list(audit_log(limit=205, **reach(platform))))
    assert some == entries[:205]
    made = [entry async for entry in async_audit_log(actions=["create"], **reach(platform))]
    assert [(e.actor_type, e.actor_name, e.metadata) for e in made] == [
        ("api_key", "test", {"template": "minimal"})
    ]


async def test_the_command_prints_the_log_and_follows_it(platform: Platform, tmp_path: Path):
    path = await platform.create()
    sandbox_id = path.rpartition("/")[2]
    text = await output(platform, tmp_path)
    head, line = text.splitlines()
    assert head.split() == ["TIME", "ACTOR", "ACTION", "RESOURCE", "STATUS", "DETAILS"]
    assert line.split()[2:] == ["test", "create", "sandbox", sandbox_id, "success", "template=minimal"]
    (entry,) = json.loads(await output(platform, tmp_path, "--json", "--action", "create"))
    assert (entry["resource_id"], entry["metadata"]) == (sandbox_id, {"template": "minimal"})
    assert json.loads(await output(platform, tmp_path, "--json", "--type", "snapshot")) == []
    async with running(platform, tmp_path, "--follow", "--json") as process:
        assert process.stdout is not None
        assert (await line_of(process))["action"] == "create"
        await platform.api.delete(path)
        last = await line_of(process)
        assert (last["action"], last["resource_id"], last["status"]) == ("destroy", sandbox_id, "warning")
        assert last["id"].startswith("log-")


async def line_of(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    async with asyncio.timeout(4 * DEADLINE_S):
        return json.loads(await process.stdout.readline())


@asynccontextmanager
async def running(
    platform: Platform, home: Path, *arguments: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from wrenn.cli.main import main; main()",
        "audit",
        *arguments,
        env={"WRENN_API_KEY": platform.key.reveal(), "WRENN_BASE_URL": platform.url, "HOME": str(home)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def output(platform: Platform, home: Path, *arguments: str) -> str:
    async with running(platform, home, *arguments) as process, asyncio.timeout(4 * DEADLINE_S):
        return (await process.communicate())[0].decode()
