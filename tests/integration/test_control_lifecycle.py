"""Sandboxes and hosts agree in the end, whatever fails, comes twice, or comes late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import func, text, update

from wrenn.agent.sandboxes import State
from wrenn.base.errors import AgentFailure, Conflict, InternalError, NoCapacity, StorageFull, Unavailable
from wrenn.base.ids import SandboxId
from wrenn.base.units import MIB
from wrenn.control.db import Database
from wrenn.control.sandboxes.tables import sandboxes
from wrenn.control.settings import Settings
from wrenn.testing.agent_host import AgentHost, agent_host

from .conftest import DEADLINE_S, Platform, make_team, refused, running_platform, with_memory

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = {"Idempotency-Key": "one request"}


TAKEN_BY_ANOTHER = {
    "lease_owner": "another",
    "lease_until": func.now() + timedelta(seconds=1),
    "version": sandboxes.c.version + 1,
}
"""As if another replica had taken the sandbox, with what is left of its lease."""


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's: a test has a team of its own."""
    return team_platform


@pytest.fixture
def second_platform(team_replica: Platform) -> Platform:
    return team_replica


@pytest.fixture
def database(database_of_module: Database) -> Database:
    return database_of_module


async def test_the_same_idempotency_key_is_the_same_sandbox(platform: Platform):
    many = [platform.api.post("/v1/sandboxes", json={"vcpus": 2}, headers=KEY) for _ in range(5)]
    answers = await asyncio.gather(*many)
    assert [answer.status_code for answer in answers] == [201] * 5
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(platform.host.sandbox_ids) == 1
    refused(await platform.api.post("/v1/sandboxes", json={"vcpus": 1}, headers=KEY), 409, "conflict")


async def test_an_idempotency_key_belongs_to_its_team(platform: Platform):
    mine = await platform.api.post("/v1/sandboxes", json={}, headers=KEY)
    other = {**KEY, "X-API-Key": (await platform.other_team()).reveal()}
    theirs = await platform.api.post("/v1/sandboxes", json={"vcpus": 2}, headers=other)
    assert theirs.status_code == 201
    assert theirs.json()["id"] != mine.json()["id"]


async def test_the_idempotency_key_of_a_removed_sandbox_is_refused(platform: Platform):
    first = await platform.api.post("/v1/sandboxes", json={}, headers=KEY)
    await platform.api.delete(f"/v1/sandboxes/{first.json()['id']}")
    refused(await platform.api.post("/v1/sandboxes", json={}, headers=KEY), 409, "invalid_state")


async def test_a_failed_start_leaves_nothing_and_frees_its_key(platform: Platform):
    platform.host.switches.fail["ensure_sandbox"] = AgentFailure("The guest did not answer.")
    answer = await platform.api.post("/v1/sandboxes", json={}, headers=KEY)
    assert refused(answer, 502, "agent_error") == "The guest did not answer."
    assert not platform.host.sandbox_ids
    assert platform.host.calls["remove_sandbox"] == 1
    assert (await platform.api.get("/v1/sandboxes")).json() == []
    platform.host.switches.fail.clear()
    assert (await platform.api.post("/v1/sandboxes", json={}, headers=KEY)).status_code == 201


async def test_the_hosts_reason_decides_the_answer(platform: Platform):
    for failure, status, code in (
        (StorageFull("The disk of the host is full."), 507, "storage_full"),
        (InternalError("/secret/path exploded"), 500, "internal_error"),
    ):
        platform.host.switches.fail["ensure_sandbox"] = failure
        answer = await platform.api.post("/v1/sandboxes", json={})
        assert "secret" not in refused(answer, status, code)


@pytest.mark.asyncio(loop_scope="function")
async def test_creates_at_once_never_exceed_the_memory(
    settings: Settings, host: AgentHost, database_url: str
):
    key = await make_team(database_url, "ada")
    async with running_platform(with_memory(settings, 4 * 512 * MIB), host, key) as platform:
        answers = await asyncio.gather(*(platform.api.post("/v1/sandboxes", json={}) for _ in range(10)))
        assert sorted(answer.status_code for answer in answers) == [201] * 4 + [503] * 6
        full = [answer for answer in answers if answer.status_code == 503]
        assert "memory" in refused(full[0], 503, "no_hosts_available")
        done = next(answer for answer in answers if answer.status_code == 201)
        await platform.api.delete(f"/v1/sandboxes/{done.json()['id']}")
        assert (await platform.api.post("/v1/sandboxes", json={})).status_code == 201


@pytest.mark.asyncio(loop_scope="function")
async def test_slots_that_are_full_are_named(own_platform: Platform):
    platform = own_platform
    platform.host.sandbox_limit = 1
    await platform.host.restart()
    # Known from the first heartbeat of the new agent.
    async with asyncio.timeout(DEADLINE_S):
        database = platform.control.database
        while (await database.execute(text("SELECT sandbox_limit FROM hosts"))).scalar_one() != 1:
            await asyncio.sleep(0.05)
    await platform.create()
    answer = await platform.api.post("/v1/sandboxes", json={})
    assert "sandbox slots" in refused(answer, 503, "no_hosts_available")


async def test_a_lost_answer_of_create_and_of_remove_is_asked_again(platform: Platform):
    platform.host.switches.lose_answer = {"ensure_sandbox", "remove_sandbox"}
    creation = asyncio.create_task(platform.create())
    await platform.host.wait_call("ensure_sandbox", count=2)
    platform.host.switches.lose_answer.discard("ensure_sandbox")
    path = await creation
    assert len(platform.host.sandbox_ids) == 1
    deletion = asyncio.create_task(platform.api.delete(path))
    await platform.host.wait_call("remove_sandbox", count=2)
    platform.host.switches.lose_answer.clear()
    assert (await deletion).status_code == 204
    assert not platform.host.sandbox_ids


async def test_a_sandbox_that_is_removed_while_it_starts_is_gone(platform: Platform):
    platform.host.switches.hold["ensure_sandbox"] = held = asyncio.Event()
    creation = asyncio.create_task(platform.api.post("/v1/sandboxes", json={}))
    await platform.host.wait_call("ensure_sandbox")
    (listed,) = (await platform.api.get("/v1/sandboxes")).json()
    assert listed["status"] == "starting"
    path = f"/v1/sandboxes/{listed['id']}"
    refused(await platform.api.post(f"{path}/exec", json={"cmd": "true"}), 409, "invalid_state")
    assert (await platform.api.delete(path)).status_code == 204
    refused(await creation, 409, "invalid_state")
    # The host's late work is noticed and taken back.
    held.set()
    await platform.host.wait_call("remove_sandbox", count=2)
    await until(lambda: not platform.host.sandbox_ids)
    assert (await platform.api.get(path)).json()["status"] == "stopped"


async def left(call: asyncio.Task[httpx2.Response]) -> None:
    """Disconnect as the client of a call that is not answered yet."""
    assert call.cancel()
    await asyncio.wait({call})


@pytest.mark.parametrize("headers", [{}, KEY], ids=["without key", "with key"])
async def test_a_client_that_disconnects_leaves_a_sandbox_only_under_its_key(
    platform: Platform, headers: dict[str, str]
):
    platform.host.switches.hold["ensure_sandbox"] = held = asyncio.Event()
    creating = asyncio.create_task(platform.api.post("/v1/sandboxes", json={}, headers=headers))
    await platform.host.wait_call("ensure_sandbox")
    await left(creating)
    held.set()
    if headers:
        again = await platform.api.post("/v1/sandboxes", json={}, headers=headers)
        assert again.status_code == 201
        assert platform.host.sandbox_ids == {again.json()["id"]}
    else:
        await platform.host.wait_call("remove_sandbox")
        async with asyncio.timeout(DEADLINE_S):
            while (await platform.api.get("/v1/sandboxes")).json():
                await asyncio.sleep(0.05)
        assert not platform.host.sandbox_ids


async def test_a_command_whose_client_disconnects_is_cancelled_on_the_host(platform: Platform):
    path = await platform.create()
    body = {"cmd": "sleep", "args": ["60"], "timeout_sec": 60}
    call = asyncio.create_task(platform.api.post(f"{path}/exec", json=body))
    await platform.host.wait_call("exec")
    call.cancel()
    await asyncio.wait({call})
    await platform.host.wait_broken_off("exec")


async def test_a_sandbox_that_ended_by_itself_becomes_an_error(platform: Platform):
    lost, forgotten, kept = [await platform.create() for _ in range(3)]
    platform.host.kill_guest(lost.rpartition("/")[2])
    await platform.host.remove(forgotten.rpartition("/")[2])
    for path in (lost, forgotten):
        found = await platform.wait_status(path, "error")
        assert "virtual machine" in str(found["metadata"])
        refused(await platform.api.post(f"{path}/exec", json={"cmd": "true"}), 409, "invalid_state")
        assert (await platform.api.delete(path)).status_code == 204
    assert platform.host.sandbox_ids == {kept.rpartition("/")[2]}
    assert (await platform.api.get(kept)).json()["status"] == "running"


async def test_what_nobody_knows_is_removed_after_a_grace(platform: Platform):
    kept = await platform.create()
    planted = str(SandboxId.new())
    await platform.host.plant(planted)
    await platform.control.comparison.compare_once()
    assert planted in platform.host.sandbox_ids
    await until(lambda: planted not in platform.host.sandbox_ids)
    assert platform.host.sandbox_ids == {kept.rpartition("/")[2]}


async def test_requests_that_find_no_host_share_a_look_at_the_hosts(platform: Platform):
    monitor = platform.control.monitor
    looks = platform.host.calls["get_host"]
    given_up, *others = (asyncio.create_task(monitor.look_recently()) for _ in range(50))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(*others)
    await asyncio.gather(*(monitor.look_recently() for _ in range(50)))
    # The monitor itself looks at an interval.
    assert platform.host.calls["get_host"] - looks < 10


async def test_a_silent_host_makes_its_sandboxes_missing_until_it_is_back(platform: Platform):
    host = platform.host
    path = await platform.create()
    host.silence("exec", "remove_sandbox", "ensure_sandbox")
    await platform.wait_status(path, "missing")
    refused(await platform.api.post(f"{path}/exec", json={"cmd": "true"}), 503, "host_unavailable")
    # The host may be restarting: the create asks it for some seconds, then gives up.
    refused(await platform.api.post("/v1/sandboxes", json={}), 503, "host_unavailable")
    assert [s["status"] for s in (await platform.api.get("/v1/sandboxes")).json()] == ["missing"]
    host.answer_again()
    await platform.wait_status(path, "running")
    answer = await platform.api.post(f"{path}/exec", json={"cmd": "true"})
    assert answer.json()["exit_code"] == 0


async def test_deleting_on_a_silent_host_is_done_when_it_is_back(platform: Platform):
    host = platform.host
    path = await platform.create()
    host.switches.fail["remove_sandbox"] = Unavailable("silent")
    deleting = asyncio.create_task(platform.api.delete(path))
    await host.wait_call("remove_sandbox")
    await left(deleting)
    assert (await platform.api.get(path)).json()["status"] == "running"
    refused(await platform.api.post(f"{path}/exec", json={"cmd": "true"}), 409, "invalid_state")
    host.switches.fail.clear()
    await platform.wait_status(path, "stopped")
    assert not host.sandbox_ids


async def test_two_replicas_share_the_work_and_see_each_others_results(
    platform: Platform, second_platform: Platform
):
    both = (platform, second_platform)
    paths = await asyncio.gather(*(both[n % 2].create() for n in range(12)))
    assert len(platform.host.sandbox_ids) == 12
    for path in paths[:6]:
        assert (await second_platform.api.get(path)).json()["status"] == "running"
    answers = await asyncio.gather(*(both[n // 6].api.delete(path) for n, path in enumerate(paths)))
    assert {answer.status_code for answer in answers} == {204}
    assert not platform.host.sandbox_ids


async def test_both_replicas_reconciling_and_comparing_at_once_change_nothing_twice(
    platform: Platform, second_platform: Platform
):
    paths = [await platform.create() for _ in range(4)]
    lost = paths[0].rpartition("/")[2]
    platform.host.kill_guest(lost)
    # A comparison that runs by itself may have removed it already.
    await until(lambda: lost not in platform.host.sandbox_ids or platform.host.state(lost) == State.LOST)
    for _ in range(3):
        await asyncio.gather(
            *(p.control.comparison.compare_once() for p in (platform, second_platform)),
            *(p.control.reconciler.reconcile_once() for p in (platform, second_platform)),
        )
    statuses = [(await platform.api.get(path)).json()["status"] for path in paths]
    assert statuses == ["error", "running", "running", "running"]
    assert len(platform.host.sandbox_ids) == 3


async def test_a_late_result_touches_no_row(platform: Platform, database: Database):
    platform.host.switches.hold["ensure_sandbox"] = held = asyncio.Event()
    creation = asyncio.create_task(platform.api.post("/v1/sandboxes", json={}, headers=KEY))
    await platform.host.wait_call("ensure_sandbox")
    # As if the worker had slept through its lease and another replica had taken the sandbox.
    await database.execute(update(sandboxes).values(TAKEN_BY_ANOTHER))
    held.set()
    answer = await creation
    assert answer.status_code == 201
    # Asked again when the other's lease had run out: the first result was not written.
    assert platform.host.calls["ensure_sandbox"] == 2


async def test_a_replica_that_has_lost_its_lease_removes_nothing_from_the_host(
    platform: Platform, database: Database
):
    switches = platform.host.switches
    switches.hold["ensure_sandbox"] = held = asyncio.Event()
    switches.fail["ensure_sandbox"] = AgentFailure("It broke.")
    creation = asyncio.create_task(platform.api.post("/v1/sandboxes", json={}, headers=KEY))
    await platform.host.wait_call("ensure_sandbox")
    # As if the database had been out of reach until the lease ran out, and another replica had started the sandbox.
    await database.execute(update(sandboxes).values(TAKEN_BY_ANOTHER))
    switches.hold["ensure_sandbox"] = held_again = asyncio.Event()
    held.set()
    await platform.host.wait_call("ensure_sandbox", count=2)
    assert platform.host.calls["remove_sandbox"] == 0
    switches.fail.clear()
    held_again.set()
    assert (await creation).status_code == 201


@pytest.mark.asyncio(loop_scope="function")
async def test_a_host_keeps_its_identity_when_its_address_changes(
    database_url: str, own_platform: Platform, tmp_path: Path
):
    platform = own_platform
    path = await platform.create()
    async with agent_host(tmp_path / "other") as other:
        # With a token of the same host, at another address, and without the files of its sandboxes.
        with pytest.raises(Conflict, match="none of their files"):
            await other.join(platform.url, database_url)
        assert (await platform.api.delete(path)).status_code == 204
        await platform.wait_status(path, "stopped")
        await other.join(platform.url, database_url)
        await platform.control.monitor.look_once()
        answer = await platform.api.post("/v1/sandboxes", json={})
        assert answer.status_code == 201
        assert other.sandbox_ids == {answer.json()["id"]}


@pytest.mark.asyncio(loop_scope="function")
async def test_a_sandbox_that_its_host_refuses_is_started_on_another(
    database_url: str, own_platform: Platform, tmp_path: Path
):
    platform = own_platform
    full = NoCapacity("All network slots of this host are in use.")
    async with agent_host(tmp_path / "other") as other:
        await other.join(platform.url, database_url, name="other")
        await platform.control.monitor.look_once()
        platform.host.switches.fail["ensure_sandbox"] = full
        created = [(await platform.create()).rpartition("/")[2] for _ in range(3)]
        assert (other.sandbox_ids, platform.host.sandbox_ids) == (set(created), set())
        # Refused once, it comes last for some time.
        assert platform.host.calls["ensure_sandbox"] == 1
        generations = await platform.control.database.execute(text("SELECT generation FROM sandboxes"))
        assert sorted(generations.scalars()) == [1, 1, 2]
        other.switches.fail["ensure_sandbox"] = full
        answer = await platform.api.post("/v1/sandboxes", json={})
        assert refused(answer, 503, "no_hosts_available") == full.message
        assert len((await platform.api.get("/v1/sandboxes")).json()) == 3
        platform.host.switches.fail.clear()
        other.switches.fail.clear()
        await platform.create()


@pytest.mark.asyncio(loop_scope="function")
async def test_a_sandbox_whose_host_cannot_be_connected_to_is_started_on_another(
    settings: Settings, host: AgentHost, database_url: str, tmp_path: Path
):
    key = await make_team(database_url, "ada")
    async with (
        agent_host(tmp_path / "other") as other,
        # Which does not notice by itself that a host does not answer.
        running_platform(replace(settings, host_interval_s=600.0), host, key) as platform,
    ):
        await platform.create()
        await other.join(platform.url, database_url, name="other")
        await platform.control.monitor.look_once()
        await other.stop()
        # The stopped one is the emptier one, and counts as online still.
        created = (await platform.create()).rpartition("/")[2]
        assert created in platform.host.sandbox_ids
        generations = await platform.control.database.execute(text("SELECT generation FROM sandboxes"))
        assert sorted(generations.scalars()) == [1, 2]


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not done():
            await asyncio.sleep(0.05)


async def test_the_owner_of_a_suspended_sandbox_gets_the_reason(platform: Platform):
    path = await platform.create()
    sandbox_id = path.rpartition("/")[2]
    for reason in ("The disk of its host is full.", ""):
        async with asyncio.timeout(DEADLINE_S):
            while True:
                # The agent's watch of the disk, which finds space, may take it back before the comparison.
                platform.host.set_suspended(sandbox_id, reason)
                await platform.control.comparison.compare_once()
                sandbox = (await platform.api.get(path)).json()
                assert sandbox["status"] == "running"
                if sandbox["metadata"].get("reason", "") == reason:
                    break
    logs = (await platform.api.get("/v1/audit-logs")).json()
    actions = [entry["action"] for entry in logs["items"]]
    assert {"held", "released"} <= set(actions)


async def test_a_pause_on_a_full_disk_fails_as_such_and_the_sandbox_keeps_running(platform: Platform):
    path = await platform.create()
    platform.host.switches.fail["pause_sandbox"] = StorageFull("The disk of the host is full.")
    refused(await platform.api.post(f"{path}/pause"), 507, "storage_full")
    assert (await platform.api.get(path)).json()["status"] == "running"
