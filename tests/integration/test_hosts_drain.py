"""Draining a host: nothing is started there, and what runs is waited for or paused. Takes about 15 s."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text

from wrenn.base.errors import StorageFull
from wrenn.base.ids import SandboxId
from wrenn.control.db import Database
from wrenn.testing.agent_host import AgentHost
from wrenn.testing.fork_server import start_program

from .conftest import DEADLINE_S, empty, refused, run_sql
from .people import People, Person, make_admin
from .test_accounts_cli import Cli

pytestmark = pytest.mark.asyncio(loop_scope="module")

AT_ONCE = 16
PAUSE = {"policy": "pause"}


async def until(done: Callable[[], Awaitable[object]]) -> None:
    """Wait until `done` returns something true."""
    seen: object = None
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not (seen := await done()):
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not reached: {seen}") from None


class Drained:
    """The platform's host, as its admin drains it."""

    def __init__(self, root: Person, path: str) -> None:
        self.root = root
        self.path = path

    async def drain(self, **body: str) -> dict[str, Any]:
        answer = await self.root.post(f"{self.path}/drain", body)
        assert answer.status_code == 200, answer.text
        return answer.json()["drain"]

    async def uncordon(self) -> None:
        answer = await self.root.post(f"{self.path}/uncordon")
        assert answer.status_code == 200, answer.text
        assert "drain" not in answer.json()

    async def now(self) -> dict[str, Any]:
        answer = await self.root.get(self.path)
        assert answer.status_code == 200, answer.text
        return answer.json().get("drain", {})

    async def is_drained(self) -> bool:
        return (await self.now())["state"] == "drained"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def root(people: People) -> Person:
    root = await people.sign_up(name="Root")
    await make_admin(people.database_url, root)
    return root


@pytest_asyncio.fixture(loop_scope="module")
async def host(people: People, root: Person) -> AsyncIterator[Drained]:
    (row,) = (await root.get("/v1/hosts")).json()
    drained = Drained(root, f"/v1/hosts/{row['id']}")
    people.platform.host.calls.clear()
    yield drained
    await run_sql(people.database_url, "UPDATE hosts SET deleted_at = NULL")
    await drained.uncordon()
    await empty(people.platform)


async def create(person: Person, count: int = 1, **body: object) -> list[str]:
    """The paths of so many new sandboxes."""
    answers = await asyncio.gather(*(person.post("/v1/sandboxes", body) for _ in range(count)))
    for answer in answers:
        assert answer.status_code == 201, answer.text
    return [f"/v1/sandboxes/{answer.json()['id']}" for answer in answers]


async def statuses(person: Person, paths: list[str]) -> list[str]:
    return sorted([(await person.get(path)).json()["status"] for path in paths])


async def test_nothing_is_started_on_a_draining_host(
    people: People, host: Drained, people_database: Database
):
    ada = await people.sign_up()
    running, paused = await create(ada, 2)
    (woken,) = await create(ada, auto_resume=True)
    kept = await ada.post("/v1/snapshots", {"sandbox_id": running.rpartition("/")[2], "name": "kept"})
    assert kept.status_code == 201, kept.text
    for path in (paused, woken):
        assert (await ada.post(f"{path}/pause")).status_code == 200
    for _ in range(2):
        drain = await host.drain()
        assert (drain["policy"], drain["state"], drain["failures"]) == ("wait", "draining", [])
        counts = {phase: count for phase, count in drain["sandboxes"].items() if count}
        assert counts == {"running": 1, "paused": 2}
    (listed,) = (await host.root.get("/v1/hosts")).json()
    assert (listed["status"], listed["drain"]["state"]) == ("online", "draining")
    assert "sandboxes" not in listed["drain"]
    for url in (people.url, people.second.url):
        ada.url = url
        assert "drained" in refused(await ada.post("/v1/sandboxes"), 503, "no_hosts_available")
        for answer in (
            await ada.post("/v1/sandboxes", {"template": "kept"}),
            await ada.post(f"{running}/fork"),
            await ada.post(f"{paused}/resume"),
            await ada.post(f"{woken}/exec", {"cmd": "true"}),
        ):
            assert "drained" in refused(answer, 503, "host_draining")
    # What runs is used as before, also for snapshots, and is not touched.
    assert (await ada.post(f"{running}/exec", {"cmd": "true"})).status_code == 200
    assert not await host.is_drained()
    assert (await ada.post(f"{running}/pause")).status_code == 200
    await until(host.is_drained)
    drain = await host.drain()
    assert drain["drained_at"]
    await host.uncordon()
    await host.uncordon()
    for answer in (
        await ada.post(f"{paused}/resume"),
        await ada.post(f"{woken}/exec", {"cmd": "true"}),
        await ada.post(f"{running}/resume"),
        await ada.post(f"{running}/fork"),
    ):
        assert answer.status_code in (200, 201), answer.text
    await create(ada)
    await create(ada, template="kept")
    # Each change is told once, however often it was asked for.
    rows = await people_database.execute(text("SELECT type FROM events WHERE type LIKE 'host.%' ORDER BY id"))
    kinds = ["host.draining", "host.drained", "host.uncordoned"]
    assert [row.type for row in rows if row.type in kinds] == kinds
    log = await host.root.get("/v1/admin/audit-logs", params={"resource_type": "host"})
    actions = [(entry["action"], entry["actor_type"]) for entry in reversed(log.json()["items"])]
    assert actions[-3:] == [("drain", "user"), ("marked_drained", "system"), ("uncordon", "user")]


async def test_a_drain_pauses_what_runs_and_names_what_cannot_be_paused(people: People, host: Drained):
    ada = await people.sign_up()
    paths = await create(ada, 4)
    agent: AgentHost = people.platform.host
    agent.switches.fail_after["pause_sandbox"] = (3, StorageFull("The disk is full."))
    await host.drain()
    # With the other policy; the drain is the same.
    began_at = (await host.now())["began_at"]
    assert (await host.drain(**PAUSE))["began_at"] == began_at

    async def is_named() -> object:
        drain = await host.now()
        return drain["sandboxes"]["paused"] == 3 and drain["failures"]

    await until(is_named)
    (failure,) = (await host.now())["failures"]
    assert (failure["code"], failure["reason"]) == ("storage_full", "The disk is full.")
    assert (await ada.post(f"/v1/sandboxes/{failure['sandbox_id']}/exec", {"cmd": "true"})).status_code == 200
    assert await statuses(ada, paths) == ["paused"] * 3 + ["running"]
    assert agent.calls["pause_sandbox"] == 4, "it is not tried again at once"
    # It is tried again later, and works.
    agent.switches.fail_after.clear()
    stuck = f"id = '{SandboxId.parse(failure['sandbox_id']).value}'"
    await run_sql(
        people.database_url,
        f"UPDATE sandboxes SET desired_at = now() - interval '11 seconds' WHERE {stuck}",
    )
    # Its user changes it all the time, which does not delay that.
    path = f"/v1/sandboxes/{failure['sandbox_id']}"
    assert (await ada.patch(f"{path}/timeout", {"timeout_sec": 0})).status_code == 200
    await until(host.is_drained)
    assert (await host.now())["failures"] == []
    shown = (await ada.get(paths[0])).json()
    assert shown["metadata"]["reason"] == "Its host is being drained."
    await host.uncordon()
    assert await statuses(ada, paths) == ["paused"] * 4, "nothing is resumed unasked"


async def test_what_starts_during_a_drain_is_paused_too(people: People, host: Drained):
    ada = await people.sign_up()
    agent: AgentHost = people.platform.host
    started = agent.switches.hold["ensure_sandbox"] = asyncio.Event()
    creating = asyncio.create_task(ada.post("/v1/sandboxes"))
    await agent.wait_call("ensure_sandbox")
    drain = await host.drain(**PAUSE)
    assert drain["sandboxes"]["starting"] == 1
    started.set()
    assert (await creating).status_code == 201
    await until(host.is_drained)


async def test_few_are_paused_at_a_time_and_an_uncordon_leaves_the_others(people: People, host: Drained):
    ada = await people.sign_up()
    paths = await create(ada, AT_ONCE + 2, memory_mb=128)
    agent: AgentHost = people.platform.host
    released = agent.switches.hold["pause_sandbox"] = asyncio.Event()
    await host.drain(**PAUSE)
    await agent.wait_call("pause_sandbox", count=AT_ONCE)
    counts = (await host.now())["sandboxes"]
    assert (counts["pausing"], counts["running"]) == (AT_ONCE, 2)
    await host.uncordon()
    released.set()

    async def settled() -> object:
        return await statuses(ada, paths) == ["paused"] * AT_ONCE + ["running"] * 2

    await until(settled)
    assert agent.calls["pause_sandbox"] == AT_ONCE
    await create(ada)


async def test_a_draining_host_is_deleted_like_any_other(people: People, host: Drained):
    ada = await people.sign_up()
    paths = await create(ada, 2)
    agent: AgentHost = people.platform.host
    released = agent.switches.hold["pause_sandbox"] = asyncio.Event()
    await host.drain(**PAUSE)
    await agent.wait_call("pause_sandbox", count=2)
    refused(await host.root.delete(host.path), 409, "has_active_sandboxes")
    assert (await host.root.delete(f"{host.path}?force=true")).status_code == 204
    released.set()
    refused(await host.root.post(f"{host.path}/drain"), 404, "not_found")
    refused(await host.root.post(f"{host.path}/uncordon"), 404, "not_found")
    assert await statuses(ada, paths) == ["stopped"] * 2
    await people.platform.control.drains.step_once()


@pytest.mark.parametrize(
    "body", [{"policy": "kill"}, {"policy": 1}, {"force": True}, {"policy": "wait", "x": 1}]
)
async def test_bad_input_drains_nothing(host: Drained, body: dict[str, Any]):
    refused(await host.root.post(f"{host.path}/drain", body), 400, "invalid_request")
    assert await host.now() == {}


@pytest.fixture
def cli(people: People, tmp_path: Path) -> Cli:
    return Cli(tmp_path, people.url, people.database_url)


@pytest.mark.usefixtures("forget_attempts")
async def test_the_command_waits_until_the_host_is_drained(
    people: People, host: Drained, cli: Cli, tmp_path: Path
):
    await cli.log_in(host.root)
    ada = await people.sign_up()
    (path,) = await create(ada)
    # It ends with the reason, and the drain stays in force.
    errors = await cli("hosts", "drain", "local", "--timeout", "1", code=124)
    assert "1 running" in errors
    assert "stays in force: `wrenn hosts uncordon local`" in errors
    assert "1 running" in await cli("hosts", "show", "local")
    await host.uncordon()
    # So it is after Ctrl-C.
    told = tmp_path / "told"
    with told.open("wb") as errors_of_it:
        waiting = start_program(
            "wrenn.cli.main:main",
            ["hosts", "drain", "local"],
            environment={"PATH": os.environ["PATH"], "XDG_CONFIG_HOME": str(cli.config)},
            stderr=errors_of_it,
        )

    async def says_what_is_left() -> object:
        return "1 running" in told.read_text()

    await until(says_what_is_left)
    waiting.send_signal(signal.SIGINT)
    assert await waiting.wait_ended() == 130
    assert "stays in force" in told.read_text()
    assert not await host.is_drained()
    await cli("hosts", "drain", "local", "--pause", "--timeout", "30")
    assert await statuses(ada, [path]) == ["paused"]
    assert "online, drained" in await cli("hosts", "list")
    await cli("hosts", "uncordon", "local")
    await cli("hosts", "drain", "local", "--detach")
    assert (await host.now())["policy"] == "wait"
