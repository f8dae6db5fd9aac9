"""Snapshots as templates, and forks: all or nothing, for their own team, and nothing is left behind."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable

import httpx2
import pytest
import pytest_asyncio

from wrenn.base.errors import AgentFailure, InternalError, StorageFull, Unavailable
from wrenn.base.faults import arm_faults
from wrenn.base.ids import HostId, SandboxId, SnapshotId
from wrenn.base.units import MIB
from wrenn.control.db import Database
from wrenn.control.hosts import hosts
from wrenn.control.settings import Settings
from wrenn.control.templates import templates
from wrenn.testing.agent_host import AgentHost

from .conftest import DEADLINE_S, Platform, client, make_team, refused, running_platform, with_memory

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNKNOWN = "cl-" + "0" * 25


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not done():
            await asyncio.sleep(0.02)


async def snapshot(platform: Platform, path: str, name: str | None = None, **query: str) -> httpx2.Response:
    body = {"sandbox_id": id_of(path)} | ({"name": name} if name is not None else {})
    return await platform.api.post("/v1/snapshots", json=body, params=query)


async def write(platform: Platform, path: str, text: str) -> None:
    answer = await platform.api.post(
        f"{path}/exec", json={"cmd": "sh", "args": ["-c", f"echo {text} > content"]}
    )
    assert answer.json()["exit_code"] == 0


async def read(platform: Platform, path: str) -> str:
    return (
        (await platform.api.post(f"{path}/exec", json={"cmd": "cat", "args": ["content"]}))
        .json()["stdout"]
        .strip()
    )


async def rows(database: Database) -> int:
    return len((await database.execute(templates.select().where(templates.c.type == "snapshot"))).all())


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


@pytest_asyncio.fixture(loop_scope="module")
async def stranger(platform: Platform) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(platform.url, await platform.other_team()) as api:
        yield api


@pytest.mark.parametrize("paused", [False, True])
async def test_a_snapshot_is_a_template_and_its_sandbox_stays_what_it_is(platform: Platform, paused: bool):
    path = await platform.create(vcpus=2, memory_mb=256)
    await write(platform, path, "kept")
    if paused:
        await platform.api.post(f"{path}/pause")
    answer = await snapshot(platform, path, "own.base-1")
    assert answer.status_code == 201
    template = answer.json()
    assert template.pop("created_at").endswith("Z")
    assert 0 < template.pop("size_bytes") < MIB
    template_id = template.pop("id")
    assert template == {
        "name": "own.base-1", "tags": ["latest"], "type": "snapshot", "vcpus": 2, "memory_mb": 256, "disk_size_mb": 5120,
        "platform": False,
    }  # fmt: skip
    assert (await platform.api.get(path)).json()["status"] == ("paused" if paused else "running")
    # The request's own shape does not count: the memory is what it is.
    made = await platform.create(template="own.base-1", vcpus=2, envs={"A": "1"})
    found = (await platform.api.get(made)).json()
    assert (found["template"], found["vcpus"], found["memory_mb"]) == ("own.base-1", 2, 256)
    assert await read(platform, made) == "kept"
    spec = platform.host.record(id_of(made)).spec
    assert (spec.template, spec.snapshot_id) == ("minimal", next(iter(platform.host.snapshot_ids)))
    assert spec.template_name == "own.base-1", "the variable WRENN_TEMPLATE has the name that the user knows"
    assert spec.template_id == template_id, "and WRENN_TEMPLATE_ID its version"
    # A snapshot of that one still knows the image that all began with.
    assert (await snapshot(platform, made, "second")).status_code == 201
    again = platform.host.record(id_of(await platform.create(template="second"))).spec
    assert (again.template, again.shape.vcpus) == ("minimal", 2)


async def test_the_size_is_what_no_other_template_has(platform: Platform):
    path = await platform.create()
    fill = {"cmd": "sh", "args": ["-c", f"head -c {2 * MIB} /dev/urandom > big"]}
    assert (await platform.api.post(f"{path}/exec", json=fill)).json()["exit_code"] == 0
    await platform.api.post(f"{path}/pause")
    first = (await snapshot(platform, path, "first")).json()
    assert 2 * MIB <= first["size_bytes"] < 4 * MIB
    assert (await snapshot(platform, path, "second")).json()["size_bytes"] < MIB, "they share their disk"
    answer = await platform.api.post(
        "/v1/snapshots?overwrite=true", json={"sandbox_id": id_of(path), "name": "first"}
    )
    assert answer.json()["size_bytes"] < MIB
    for name in ("first", "second"):
        assert (await platform.api.delete(f"/v1/snapshots/{name}")).status_code < 300
    again = (await snapshot(platform, path, "third")).json()
    assert again["size_bytes"] >= 2 * MIB


async def test_without_a_name_one_is_given(platform: Platform):
    path = await platform.create()
    names = [(await snapshot(platform, path)).json()["name"] for _ in range(2)]
    assert all(re.fullmatch(r"template-[0-9a-f]{8}", name) for name in names)
    assert len(set(names)) == 2


async def test_the_list_has_the_teams_own_and_the_platforms(platform: Platform, stranger: httpx2.AsyncClient):
    path = await platform.create()
    for name in ("first", "second"):
        await snapshot(platform, path, name)

    async def names(api: httpx2.AsyncClient, **query: str) -> list[tuple[str, str, bool]]:
        listed = (await api.get("/v1/snapshots", params=query)).json()
        return [(t["name"], t["type"], t["platform"]) for t in listed]

    own = [("second", "snapshot", False), ("first", "snapshot", False)]
    base = [("minimal", "base", True)]
    assert await names(platform.api) == own + base
    assert await names(platform.api, type="snapshot") == own
    assert await names(platform.api, type="base") == base
    assert await names(stranger) == base
    refused(await platform.api.get("/v1/snapshots", params={"type": "other"}), 400, "invalid_request")


async def test_another_teams_template_and_sandbox_are_not_there(
    platform: Platform, stranger: httpx2.AsyncClient
):
    path = await platform.create()
    await snapshot(platform, path, "own")
    refused(await stranger.post("/v1/snapshots", json={"sandbox_id": id_of(path)}), 404, "not_found")
    refused(await stranger.post("/v1/sandboxes", json={"template": "own"}), 404, "not_found")
    refused(await stranger.delete("/v1/snapshots/own"), 404, "not_found")
    theirs = (await stranger.post("/v1/sandboxes", json={})).json()["id"]
    answer = await stranger.post("/v1/snapshots", json={"sandbox_id": theirs, "name": "own"})
    assert answer.status_code == 201, "a name belongs to its team"
    assert (await stranger.delete("/v1/snapshots/own")).status_code == 204
    assert [t["name"] for t in (await platform.api.get("/v1/snapshots")).json()] == ["own", "minimal"]


async def test_names_that_cannot_be_are_refused(platform: Platform, subtests: pytest.Subtests):
    path = await platform.create()
    for name in ("", "../etc", ".hidden", "a" * 65, "a/b", "name\n"):
        with subtests.test(repr(name)):
            assert "name" in refused(await snapshot(platform, path, name), 400, "invalid_request")
    refused(await snapshot(platform, path, "minimal"), 409, "name_reserved")
    refused(await snapshot(platform, path, "minimal", overwrite="true"), 409, "name_reserved")
    refused(await platform.api.delete("/v1/snapshots/minimal"), 403, "forbidden")
    refused(await platform.api.delete("/v1/snapshots/no-such"), 404, "not_found")
    refused(await platform.api.delete("/v1/snapshots/.bad"), 400, "invalid_request")
    for body in ({}, {"sandbox_id": 1}, {"sandbox_id": "x"}):
        refused(await platform.api.post("/v1/snapshots", json=body), 400, "invalid_request")
    refused(await platform.api.post("/v1/snapshots", json={"sandbox_id": UNKNOWN}), 404, "not_found")
    await platform.api.delete(path)
    assert "stopped" in refused(await snapshot(platform, path, "late"), 409, "invalid_state")
    assert not platform.host.snapshot_ids


async def test_a_name_is_taken_until_it_is_overwritten_or_removed(platform: Platform, database: Database):
    path = await platform.create()
    await write(platform, path, "old")
    await snapshot(platform, path, "own")
    await write(platform, path, "new")
    assert "overwrite" in refused(await snapshot(platform, path, "own"), 409, "template_name_taken")
    assert (await snapshot(platform, path, "own", overwrite="true")).status_code == 201
    assert await read(platform, await platform.create(template="own")) == "new"
    assert len(platform.host.snapshot_ids) == 1
    assert (await platform.api.delete("/v1/snapshots/own")).status_code == 204
    refused(await platform.api.delete("/v1/snapshots/own"), 404, "not_found")
    refused(await platform.api.post("/v1/sandboxes", json={"template": "own"}), 404, "not_found")
    assert not platform.host.snapshot_ids
    assert await rows(database) == 0
    assert (await snapshot(platform, path, "own")).status_code == 201


async def test_an_overwrite_that_fails_leaves_the_old_one(platform: Platform, database: Database):
    path = await platform.create()
    await write(platform, path, "old")
    await snapshot(platform, path, "own")
    platform.host.switches.fail["ensure_snapshot"] = StorageFull("The disk of the host is full.")
    refused(await snapshot(platform, path, "own", overwrite="true"), 507, "storage_full")
    platform.host.switches.fail.clear()
    assert await read(platform, await platform.create(template="own")) == "old"
    assert await rows(database) == 1


async def test_of_many_with_one_name_one_is_made(
    platform: Platform, second_platform: Platform, database: Database
):
    path = await platform.create()
    both = (platform, second_platform)
    answers = await asyncio.gather(*(snapshot(both[n % 2], path, "own") for n in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 5
    for answer in answers:
        if answer.status_code == 409:
            refused(answer, 409, "template_name_taken")
    assert await rows(database) == len(platform.host.snapshot_ids) == 1


async def test_a_refused_snapshot_leaves_nothing(platform: Platform, database: Database):
    path = await platform.create()
    for failure, status, code in (
        (AgentFailure("The guest did not freeze."), 502, "agent_error"),
        (InternalError("/secret/path exploded"), 500, "internal_error"),
    ):
        platform.host.switches.fail["ensure_snapshot"] = failure
        assert "secret" not in refused(await snapshot(platform, path, "own"), status, code)
        assert await rows(database) == 0
    platform.host.switches.fail.clear()
    assert (await snapshot(platform, path, "own")).status_code == 201


async def test_a_lost_answer_of_a_snapshot_is_asked_again(platform: Platform):
    path = await platform.create()
    platform.host.switches.lose_answer = {"ensure_snapshot"}
    making = asyncio.create_task(snapshot(platform, path, "own"))
    await platform.host.wait_call("ensure_snapshot", count=2)
    platform.host.switches.lose_answer.clear()
    assert (await making).status_code == 201
    assert len(platform.host.snapshot_ids) == 1


async def test_a_snapshot_and_a_delete_at_once_end_in_one_of_both(platform: Platform, database: Database):
    path = await platform.create()
    platform.host.switches.hold["ensure_snapshot"] = held = asyncio.Event()
    making = asyncio.create_task(snapshot(platform, path, "own"))
    await platform.host.wait_call("ensure_snapshot")
    assert (await platform.api.delete(path)).status_code == 204
    held.set()
    refused(await making, 404, "not_found")
    assert await rows(database) == 0
    for _ in range(3):
        path = await platform.create()
        made, removed = await asyncio.gather(snapshot(platform, path), platform.api.delete(path))
        assert removed.status_code == 204
        assert made.status_code in (201, 404, 409)
    assert len(platform.host.snapshot_ids) == await rows(database)
    assert not platform.host.sandbox_ids


async def test_a_template_whose_host_is_silent_goes_from_there_when_it_is_back(
    platform: Platform, database: Database
):
    path = await platform.create()
    await snapshot(platform, path, "own")
    platform.host.switches.fail["remove_snapshot"] = Unavailable("silent")
    assert (await platform.api.delete("/v1/snapshots/own")).status_code == 204
    assert [t["name"] for t in (await platform.api.get("/v1/snapshots")).json()] == ["minimal"]
    assert len(platform.host.snapshot_ids) == 1
    platform.host.switches.fail.clear()
    await until(lambda: not platform.host.snapshot_ids)
    async with asyncio.timeout(DEADLINE_S):
        while await rows(database):
            await asyncio.sleep(0.02)


async def test_snapshots_are_removed_from_a_host_that_has_too_many_to_list(
    platform: Platform, database: Database
):
    path = await platform.create()
    await snapshot(platform, path, "own")
    platform.host.switches.fail["list_snapshots"] = AgentFailure("The host reported too many snapshots.")
    platform.host.switches.fail["remove_snapshot"] = Unavailable("silent")
    assert (await platform.api.delete("/v1/snapshots/own")).status_code == 204
    del platform.host.switches.fail["remove_snapshot"]
    await until(lambda: not platform.host.snapshot_ids)
    async with asyncio.timeout(DEADLINE_S):
        while await rows(database):
            await asyncio.sleep(0.02)


async def test_what_was_made_from_a_template_outlives_it(platform: Platform):
    path = await platform.create()
    await write(platform, path, "kept")
    await snapshot(platform, path, "own")
    made = await platform.create(template="own")
    assert (await platform.api.delete("/v1/snapshots/own")).status_code == 204
    for verb in ("pause", "resume"):
        assert (await platform.api.post(f"{made}/{verb}")).status_code == 200
    assert await read(platform, made) == "kept"
    assert (await platform.api.get(made)).json()["template"] == "own"


@pytest.mark.asyncio(loop_scope="function")
async def test_a_teams_name_that_the_platform_takes_later_stays_the_teams(own_platform: Platform):
    platform = own_platform
    path = await platform.create()
    await write(platform, path, "mine")
    await snapshot(platform, path, "own")
    platform.host.templates = {"minimal": "", "own": ""}
    await platform.host.restart()
    await platform.control.monitor.look_once()
    listed = (await platform.api.get("/v1/snapshots")).json()
    assert [(t["name"], t["platform"]) for t in listed] == [("own", False), ("minimal", True), ("own", True)]
    assert await read(platform, await platform.create(template="own")) == "mine"
    refused(await snapshot(platform, path, "own", overwrite="true"), 409, "name_reserved")
    assert (await platform.api.delete("/v1/snapshots/own")).status_code == 204
    refused(await platform.api.delete("/v1/snapshots/own"), 403, "forbidden")


async def test_a_snapshot_without_a_row_is_removed_after_a_grace(platform: Platform):
    path = await platform.create()
    await snapshot(platform, path, "own")
    (kept,) = platform.host.snapshot_ids
    await platform.host.agent.sandboxes.ensure_snapshot(SandboxId.parse(id_of(path)), SnapshotId.new())
    await platform.control.sweep.sweep_once()
    assert len(platform.host.snapshot_ids) == 2
    await until(lambda: platform.host.snapshot_ids == {kept})


async def test_a_host_that_registered_again_keeps_the_templates_of_its_former_row(
    platform: Platform, database: Database
):
    path = await platform.create()
    await snapshot(platform, path, "own")
    (kept,) = platform.host.snapshot_ids
    others = (SnapshotId.new(), SnapshotId.new())
    former = HostId.new()
    await database.execute(hosts.insert().values(id=former.value, name=f"former-{former}"))
    row = templates.c.id == SnapshotId.parse(kept).value
    (stored,) = (await database.execute(templates.select().where(row))).all()
    await database.execute(templates.update().where(row).values(host_id=former.value))
    for other in others:
        await platform.host.agent.sandboxes.ensure_snapshot(SandboxId.parse(id_of(path)), other)
    await until(lambda: platform.host.snapshot_ids == {kept})
    await platform.control.sweep.sweep_once()
    assert platform.host.snapshot_ids == {kept}
    await database.execute(templates.update().where(row).values(host_id=stored.host_id))
    await database.execute(hosts.delete().where(hosts.c.id == former.value))


@pytest.mark.asyncio(loop_scope="function")
async def test_a_create_from_a_template_needs_capacity_on_its_host(
    settings: Settings, host: AgentHost, database_url: str
):
    key = await make_team(database_url, "ada")
    async with running_platform(with_memory(settings, 2 * 512 * MIB), host, key) as platform:
        path = await platform.create()
        await snapshot(platform, path, "own")
        await platform.create(template="own")
        answer = await platform.api.post("/v1/sandboxes", json={"template": "own"})
        assert "memory" in refused(answer, 503, "no_hosts_available")


async def test_a_create_whose_snapshot_is_gone_from_the_host_says_so_and_leaves_nothing(
    platform: Platform,
):
    path = await platform.create()
    await snapshot(platform, path, "own")
    (kept,) = platform.host.snapshot_ids
    platform.host.agent.sandboxes.remove_snapshot(SnapshotId.parse(kept))
    await until(lambda: not (platform.host.agent.layout.snapshots / kept).exists())
    assert kept in refused(
        await platform.api.post("/v1/sandboxes", json={"template": "own"}), 404, "not_found"
    )
    assert platform.host.sandbox_ids == {id_of(path)}


@pytest.mark.parametrize("prefix", ["sandboxes", "capsules"])
async def test_a_fork_makes_copies_that_go_their_own_ways(
    platform: Platform, database: Database, prefix: str
):
    path = await platform.create(
        vcpus=2, memory_mb=256, envs={"A": "secret"}, timeout_sec=900, auto_resume=True
    )
    await write(platform, path, "before")
    answer = await platform.api.post(f"{path.replace('sandboxes', prefix)}/fork", json={"count": 3})
    assert answer.status_code == 201
    copies = answer.json()["sandboxes"]
    assert len({copy["id"] for copy in copies} | {id_of(path)}) == 4
    for copy in copies:
        same = {
            name: copy[name]
            for name in ("status", "template", "vcpus", "memory_mb", "timeout_sec", "auto_resume")
        }
        assert same == {
            "status": "running", "template": "minimal", "vcpus": 2, "memory_mb": 256, "timeout_sec": 900,
            "auto_resume": True,
        }  # fmt: skip
        own = f"/v1/sandboxes/{copy['id']}"
        assert await read(platform, own) == "before"
        assert platform.host.record(copy["id"]).spec.envs == {"A": "secret"}
        await write(platform, own, copy["id"])
    assert await read(platform, path) == "before"
    assert [await read(platform, f"/v1/sandboxes/{c['id']}") for c in copies] == [c["id"] for c in copies]
    # What was kept for it is gone, and was never a template.
    assert not platform.host.snapshot_ids
    assert await rows(database) == 0
    # A copy is as good as any other.
    again = await platform.api.post(f"/v1/sandboxes/{copies[0]['id']}/fork", json={})
    assert await read(platform, f"/v1/sandboxes/{again.json()['sandboxes'][0]['id']}") == copies[0]["id"]
    assert (await platform.api.post(f"/v1/sandboxes/{copies[1]['id']}/pause")).status_code == 200


async def test_what_does_not_run_cannot_be_forked(platform: Platform, subtests: pytest.Subtests):
    path = await platform.create()
    for body in ({"count": 0}, {"count": 33}, {"count": "2"}, {"count": 1.5}):
        with subtests.test(repr(body)):
            refused(await platform.api.post(f"{path}/fork", json=body), 400, "invalid_request")
    refused(await platform.api.post(f"/v1/sandboxes/{UNKNOWN}/fork", json={}), 404, "not_found")
    await platform.api.post(f"{path}/pause")
    assert "is paused" in refused(await platform.api.post(f"{path}/fork", json={}), 409, "invalid_state")
    assert platform.host.calls["ensure_snapshot"] == 0


@pytest.mark.asyncio(loop_scope="function")
async def test_a_fork_that_does_not_fit_is_refused_before_its_sandbox_is_stopped(
    settings: Settings, host: AgentHost, database_url: str
):
    key = await make_team(database_url, "ada")
    async with running_platform(with_memory(settings, 4 * 512 * MIB), host, key) as platform:
        path = await platform.create()
        answer = await platform.api.post(f"{path}/fork", json={"count": 4})
        assert "memory" in refused(answer, 503, "no_hosts_available")
        assert host.calls["ensure_snapshot"] == 0
        assert (await platform.api.post(f"{path}/fork", json={"count": 3})).status_code == 201


@pytest.mark.asyncio(loop_scope="function")
async def test_forks_at_once_never_exceed_the_memory(settings: Settings, host: AgentHost, database_url: str):
    key = await make_team(database_url, "ada")
    async with running_platform(with_memory(settings, 4 * 512 * MIB), host, key) as platform:
        path = await platform.create()
        answers = await asyncio.gather(
            *(platform.api.post(f"{path}/fork", json={"count": 2}) for _ in range(3))
        )
        assert sorted(answer.status_code for answer in answers) == [201, 503, 503]
        assert len(host.sandbox_ids) == 3
        await until(lambda: not host.snapshot_ids)


async def alone(platform: Platform, path: str, database: Database) -> None:
    """Nothing is left but this sandbox, which runs."""
    await until(lambda: platform.host.sandbox_ids == {id_of(path)} and not platform.host.snapshot_ids)
    async with asyncio.timeout(DEADLINE_S):
        while len(listed := (await platform.api.get("/v1/sandboxes")).json()) > 1 or await rows(database):
            await asyncio.sleep(0.02)
    assert [(s["id"], s["status"]) for s in listed] == [(id_of(path), "running")]


async def test_a_fork_is_all_or_nothing(platform: Platform, database: Database):
    path = await platform.create()
    arm_faults("agent.create.after_ready#3=error")
    answer = await platform.api.post(f"{path}/fork", json={"count": 4})
    refused(answer, 500, "internal_error")
    await alone(platform, path, database)
    platform.host.switches.fail["ensure_snapshot"] = StorageFull("The disk of the host is full.")
    refused(await platform.api.post(f"{path}/fork", json={"count": 4}), 507, "storage_full")
    await alone(platform, path, database)


async def test_a_fork_whose_client_disconnects_is_undone(platform: Platform, database: Database):
    path = await platform.create()
    platform.host.switches.hold["ensure_sandbox"] = held = asyncio.Event()
    forking = asyncio.create_task(platform.api.post(f"{path}/fork", json={"count": 2}))
    await platform.host.wait_call("ensure_sandbox", count=2)
    forking.cancel()
    await asyncio.wait({forking})
    held.set()
    await alone(platform, path, database)


async def test_a_fork_whose_sandbox_is_deleted_meanwhile_makes_nothing(
    platform: Platform, database: Database
):
    path = await platform.create()
    platform.host.switches.hold["ensure_snapshot"] = held = asyncio.Event()
    forking = asyncio.create_task(platform.api.post(f"{path}/fork", json={"count": 2}))
    await platform.host.wait_call("ensure_snapshot")
    await platform.api.delete(path)
    held.set()
    assert (await forking).status_code in (404, 409)
    await until(lambda: not platform.host.sandbox_ids and not platform.host.snapshot_ids)
    assert await rows(database) == 0


async def test_a_replica_that_sleeps_through_its_lease_has_its_fork_taken_back(
    platform: Platform, second_platform: Platform, database: Database
):
    path = await platform.create()
    platform.host.switches.hold["ensure_sandbox"] = held = asyncio.Event()
    forking = asyncio.create_task(platform.api.post(f"{path}/fork", json={"count": 2}))
    await platform.host.wait_call("ensure_sandbox", count=2)
    await database.execute(
        templates.update().values(lease_owner="another", lease_until=templates.c.created_at)
    )
    await second_platform.control.sweep.sweep_once()
    held.set()
    assert (await forking).status_code in (409, 503)
    await alone(platform, path, database)


async def test_what_the_sweep_does_twice_and_on_two_replicas_is_done_once(
    platform: Platform, second_platform: Platform, database: Database
):
    path = await platform.create()
    await snapshot(platform, path, "own")
    copies = (await platform.api.post(f"{path}/fork", json={"count": 2})).json()["sandboxes"]
    for _ in range(3):
        await asyncio.gather(
            *(p.control.sweep.sweep_once() for p in (platform, second_platform)),
            *(p.control.comparison.compare_once() for p in (platform, second_platform)),
        )
    assert platform.host.sandbox_ids == {id_of(path), *(copy["id"] for copy in copies)}
    assert len(platform.host.snapshot_ids) == await rows(database) == 1
