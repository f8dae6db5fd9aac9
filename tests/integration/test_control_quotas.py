"""Quotas hold against many callers at once, on two replicas; a refusal says what is exceeded and by how much."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from wrenn.base.errors import RateLimited
from wrenn.base.ids import TeamId
from wrenn.base.secrets import Secret
from wrenn.base.units import MIB
from wrenn.control.audit import Actor, ActorKind
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import insert_key
from wrenn.control.identity import store as teams
from wrenn.control.quotas import Limits, QuotaExceeded, QuotaStatus, Usage
from wrenn.control.quotas import store as quotas
from wrenn.control.settings import Settings
from wrenn.testing.agent_host import AgentHost

from .conftest import ControlPlane, Platform, client, make_team, refused, running_platform
from .people import make_admin, sign_up

ADMIN = Actor(ActorKind.USER, "usr-x", "Admin")


@pytest.fixture
async def tight(settings: Settings, host: AgentHost, database_url: str) -> AsyncIterator[Platform]:
    """A team may have five running sandboxes, and seven in all."""
    key = await make_team(database_url, "ada")
    limits = replace(settings.quotas, running_sandboxes=5, total_sandboxes=7)
    async with running_platform(replace(settings, quotas=limits), host, key) as platform:
        yield platform


def exceeded(answer: httpx2.Response, quota: str) -> dict[str, Any]:
    assert answer.status_code == 409, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["quota"]) == ("quota_exceeded", quota)
    return error


async def team_id(platform: Platform | ControlPlane, name: str = "ada") -> TeamId:
    found = await platform.control.database.execute(
        text("SELECT id FROM teams WHERE name = :name"), {"name": name}
    )
    return TeamId(found.scalar_one())


async def set_limits(platform: Platform | ControlPlane, limits: Limits) -> None:
    own = await team_id(platform)
    assert await platform.control.database.transaction(lambda tx: quotas.write(tx, own, limits, by=ADMIN))


async def test_of_fifty_creates_at_once_as_many_succeed_as_may(tight: Platform):
    async with running_platform(tight.settings, tight.host, tight.key) as second:
        answers = await asyncio.gather(
            *(api.post("/v1/sandboxes", json={}) for api in (tight.api, second.api) for _ in range(25))
        )
    made = [answer for answer in answers if answer.status_code == 201]
    assert len(made) == len(tight.host.sandbox_ids) == 5
    for answer in answers:
        if answer not in made:
            error = exceeded(answer, "running_sandboxes")
            assert (error["limit"], error["used"], error["wanted"]) == (5, 5, 1)
            assert "1 too many" in error["message"]
    stranger = await make_team(tight.settings.database_url or "", "eve")
    async with client(tight.url, stranger) as api:
        assert (await api.post("/v1/sandboxes", json={})).status_code == 201


async def test_a_paused_sandbox_frees_capacity_and_a_resume_needs_it(tight: Platform):
    paths = [await tight.create() for _ in range(5)]
    for path in paths[:2]:
        await tight.api.post(f"{path}/pause")
    paths += [await tight.create() for _ in range(2)]
    exceeded(await tight.api.post("/v1/sandboxes", json={}), "running_sandboxes")
    exceeded(await tight.api.post(f"{paths[0]}/resume"), "running_sandboxes")
    assert (await tight.api.get(paths[0])).json()["status"] == "paused"
    await tight.api.post(f"{paths[3]}/pause")
    exceeded(await tight.api.post("/v1/sandboxes", json={}), "total_sandboxes")
    answers = await asyncio.gather(*(tight.api.post(f"{path}/resume") for path in paths[:2]))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    refused(await tight.api.post(f"{paths[4]}/resume"), 409, "invalid_state")
    await tight.api.delete(paths[4])
    await tight.create()


async def test_a_fork_counts_all_copies_and_a_repeated_create_counts_once(tight: Platform):
    headers = {"Idempotency-Key": "one"}
    path = ""
    for _ in range(3):
        answer = await tight.api.post("/v1/sandboxes", json={}, headers=headers)
        path = f"/v1/sandboxes/{answer.json()['id']}"
    error = exceeded(await tight.api.post(f"{path}/fork", json={"count": 5}), "running_sandboxes")
    assert (error["used"], error["wanted"]) == (1, 5)
    assert tight.host.snapshot_ids == set(), "the sandbox was not stopped for it"
    assert (await tight.api.post(f"{path}/fork", json={"count": 4})).status_code == 201


async def test_vcpus_memory_and_the_rate_of_creates_are_limited(platform: Platform):
    await set_limits(platform, Limits(vcpus=3, memory_mb=1500))
    await platform.create(vcpus=2, memory_mb=512)
    exceeded(await platform.api.post("/v1/sandboxes", json={"vcpus": 2}), "vcpus")
    error = exceeded(await platform.api.post("/v1/sandboxes", json={"memory_mb": 1024}), "memory_mb")
    assert "36 too many" in error["message"]
    await set_limits(platform, Limits(creates_per_second=3))
    # However long the answers take, the requests come at once.
    answers = await asyncio.gather(*(platform.api.post("/v1/sandboxes", json={}) for _ in range(12)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes.count(429) >= 1
    for answer in answers:
        if answer.status_code == 429:
            refused(answer, 429, "rate_limited")
            assert int(answer.headers["Retry-After"]) >= 1
    path = next(f"/v1/sandboxes/{a.json()['id']}" for a in answers if a.status_code == 201)
    exceeded(await platform.api.post(f"{path}/fork", json={"count": 4}), "creates_per_second")


async def test_snapshots_take_no_more_than_they_may(platform: Platform):
    path = await platform.create()
    body: dict[str, object] = {"sandbox_id": path.rpartition("/")[2]}
    platform.host.snapshot_b = 3 * MIB + 1
    await platform.host.restart()
    assert (await platform.api.post("/v1/snapshots", json=body | {"name": "first"})).status_code == 201
    await set_limits(platform, Limits(snapshot_mb=8))
    answers = await asyncio.gather(
        *(platform.api.post("/v1/snapshots", json=body | {"name": f"s{n}"}) for n in range(5))
    )
    assert sorted(a.status_code for a in answers) == [201, 409, 409, 409, 409]
    for refusal in (a for a in answers if a.status_code == 409):
        exceeded(refusal, "snapshot_mb")
    await platform.api.delete("/v1/snapshots/first")
    first = {"name": "first"}
    assert (await platform.api.post("/v1/snapshots", json=body | first)).status_code == 201
    again = await platform.api.post("/v1/snapshots?overwrite=true", json=body | first)
    assert again.status_code == 201, "what it replaces makes room"
    names = [t["name"] for t in (await platform.api.get("/v1/snapshots?type=snapshot")).json()]
    assert len(names) == 2
    found = (await platform.api.get("/v1/limits")).json()
    assert found["usage"]["snapshot_mb"] <= found["limits"]["snapshot_mb"]


async def test_a_team_has_no_more_templates_than_it_may(platform: Platform):
    path = await platform.create()
    body: dict[str, object] = {"sandbox_id": path.rpartition("/")[2]}
    assert (await platform.api.post("/v1/snapshots", json=body | {"name": "first"})).status_code == 201
    await set_limits(platform, Limits(templates=3))
    answers = await asyncio.gather(
        *(platform.api.post("/v1/snapshots", json=body | {"name": f"s{n}"}) for n in range(5))
    )
    assert sorted(a.status_code for a in answers) == [201, 201, 409, 409, 409]
    for refusal in (a for a in answers if a.status_code == 409):
        exceeded(refusal, "templates")
    again = await platform.api.post("/v1/snapshots?overwrite=true", json=body | {"name": "first"})
    assert again.status_code == 201, "what it replaces makes room"
    exceeded(await platform.api.post("/v1/snapshots", json=body | {"name": "more"}), "templates")
    assert (await platform.api.get("/v1/limits")).json()["usage"]["templates"] == 3
    # Who has more than a limit that was lowered, or is new, replaces what there is.
    await set_limits(platform, Limits(templates=1))
    again = await platform.api.post("/v1/snapshots?overwrite=true", json=body | {"name": "first"})
    assert again.status_code == 201, again.text
    await set_limits(platform, Limits(templates=3))
    await platform.api.delete("/v1/snapshots/first")
    assert (await platform.api.post("/v1/snapshots", json=body | {"name": "more"})).status_code == 201


async def test_a_build_beyond_the_quota_uploads_nothing(platform: Platform):
    await set_limits(platform, Limits(snapshot_mb=0))
    body = {"name": "large", "recipe": ["RUN echo large > /srv-large"], "skip_pre_post": True}
    answer = await platform.api.post("/v1/builds", json=body)
    assert answer.status_code == 201, answer.text
    path = f"/v1/builds/{answer.json()['id']}"
    async with asyncio.timeout(60):
        while (made := (await platform.api.get(path)).json())["status"] in ("pending", "running"):
            await asyncio.sleep(0.1)
    assert made["status"] == "failed"
    assert "may have 0 MB of snapshots" in made["error"]
    own = str(await team_id(platform))
    assert [found async for page in platform.control.objects.pages(own) for found in page] == []
    images = await platform.control.database.execute(text("SELECT id FROM images"))
    assert images.all() == []


async def test_a_shared_layer_counts_until_the_last_template_that_has_it_is_gone(platform: Platform):
    path = await platform.create()
    answer = await platform.api.post(
        f"{path}/exec", json={"cmd": "sh", "args": ["-c", "head -c 8388608 /dev/urandom >/root/large"]}
    )
    assert answer.json()["exit_code"] == 0, answer.text
    await platform.api.post(f"{path}/pause")
    body = {"sandbox_id": path.rpartition("/")[2]}
    used: list[int] = []

    async def usage() -> int:
        return (await platform.api.get("/v1/limits")).json()["usage"]["snapshot_mb"]

    for name in ("one", "two", "three"):
        answer = await platform.api.post("/v1/snapshots", json=body | {"name": name})
        assert answer.status_code == 201, answer.text
        used.append(await usage())
    memory_mb = used[1] - used[0]
    layers_mb = used[0] - memory_mb
    assert layers_mb >= 8
    assert used[2] - used[1] <= memory_mb + 1
    # Not the one that counted it, then both that did.
    for name, left in (("two", 2), ("one", 1)):
        await platform.api.delete(f"/v1/snapshots/{name}")
        assert abs(await usage() - (layers_mb + left * memory_mb)) <= 2
    again = await platform.api.post("/v1/snapshots?overwrite=true", json=body | {"name": "three"})
    assert again.status_code == 201, again.text
    assert abs(await usage() - used[0]) <= 2
    await platform.api.delete("/v1/snapshots/three")
    assert await usage() == 0


async def test_a_team_sees_what_it_may_and_has(tight: Platform):
    first = await tight.create(vcpus=2, memory_mb=256)
    await tight.create(memory_mb=256)
    await tight.api.post(f"{first}/pause")
    found = (await tight.api.get("/v1/limits")).json()
    assert (found["limits"]["running_sandboxes"], found["limits"]["total_sandboxes"]) == (5, 7)
    found["usage"].pop("creates_per_second")
    assert found["usage"] == {
        "running_sandboxes": 1, "total_sandboxes": 2, "vcpus": 1, "memory_mb": 256, "templates": 0, "snapshot_mb": 0,
    }  # fmt: skip
    await set_limits(tight, Limits(running_sandboxes=0, vcpus=9))
    limits = (await tight.api.get("/v1/limits")).json()["limits"]
    assert (limits["running_sandboxes"], limits["total_sandboxes"], limits["vcpus"]) == (0, 7, 9)
    exceeded(await tight.api.post("/v1/sandboxes", json={}), "running_sandboxes")
    assert (await tight.api.get(first)).json()["status"] == "paused", "what it has stays"


async def test_no_key_sets_limits(platform: Platform, database: Database):
    url = f"/v1/admin/teams/{await team_id(platform)}/limits"
    refused(await platform.api.put(url, json={"vcpus": 1}), 401, "unauthorized")
    refused(await platform.api.get(url), 401, "unauthorized")
    root = await sign_up(platform.url)
    refused(await root.put(url, {"vcpus": 1}), 403, "forbidden")
    await make_admin(platform.settings.database_url or "", root)
    bad_bodies: list[object] = [{"vcpus": -1}, {"vcpus": "1"}, {"memory_mb": 2**31}, []]
    for bad in bad_bodies:
        refused(await root.put(url, bad), 400, "invalid_request")
    refused(await root.put("/v1/admin/teams/x/limits", {}), 400, "invalid_request")
    async with client(platform.url, None) as nobody:
        refused(await nobody.put(url, json={}), 401, "unauthorized")
    unknown = TeamId.new()
    assert not await database.transaction(lambda tx: quotas.write(tx, unknown, Limits(), by=ADMIN))


async def test_a_change_of_limits_is_in_the_platforms_log(platform: Platform):
    await set_limits(platform, Limits(vcpus=3))
    await set_limits(platform, Limits())
    found = await platform.control.database.execute(
        text(
            "SELECT action, scope, actor_id, resource_id, metadata FROM audit_logs"
            " WHERE resource_type = 'team' ORDER BY created_at"
        )
    )
    own = str(await team_id(platform))
    rows = [tuple(row) for row in found]
    assert rows == [("set_limits", "admin", "usr-x", own, facts) for facts in ({"vcpus": 3}, {})]


def test_what_fits_fits_exactly():
    standing = QuotaStatus(Limits(vcpus=4, creates_per_second=2), Usage(vcpus=3, creates_per_second=1))
    standing.require_within_quota(Usage(vcpus=1, running_sandboxes=1000, creates_per_second=1))
    with pytest.raises(QuotaExceeded, match=r"4 vCPUs; it has 3, and 2 more would be 1 too many"):
        standing.require_within_quota(Usage(vcpus=2))
    with pytest.raises(RateLimited):
        standing.require_within_quota(Usage(creates_per_second=2))
    with pytest.raises(QuotaExceeded):
        standing.require_within_quota(Usage(creates_per_second=3))
    # Who is over a limit that was lowered may still do what needs nothing of it.
    QuotaStatus(Limits(vcpus=1), Usage(vcpus=3)).require_within_quota(Usage(total_sandboxes=1))
    assert Limits(vcpus=0).over(Limits(vcpus=9, memory_mb=5)) == Limits(vcpus=0, memory_mb=5)


@pytest.fixture
async def owner_of_two(tight: Platform) -> AsyncIterator[tuple[Platform, httpx2.AsyncClient]]:
    """`tight` and a client with a key of a second team of the same owner."""

    async def second_team(tx: Transaction) -> Secret:
        owner = await teams.ensure_user(tx, email="ada@example.com", name="ada", is_admin=False)
        other = await teams.insert_team(tx, owner, name="other", is_default=False)
        return await insert_key(tx, team_id=other, created_by=owner, name="test")

    key = await tight.control.database.transaction(second_team)
    async with client(tight.url, key) as other:
        yield tight, other


async def test_quotas_bind_the_owner_over_all_own_teams(
    owner_of_two: tuple[Platform, httpx2.AsyncClient],
):
    tight, other = owner_of_two
    answers = await asyncio.gather(
        *(api.post("/v1/sandboxes", json={}) for api in (tight.api, other) for _ in range(5))
    )
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(201), statuses.count(409)) == (5, 5)
    refusals_of_owner = [a for a in answers if a.status_code == 409 and "owner" in a.text]
    for answer in refusals_of_owner:
        error = exceeded(answer, "running_sandboxes")
        assert (error["limit"], error["used"], error["wanted"]) == (5, 5, 1)
    assert refusals_of_owner
    said = [(await api.get("/v1/limits")).json() for api in (tight.api, other)]
    assert [each["owner"]["usage"]["running_sandboxes"] for each in said] == [5, 5]
    assert sum(each["usage"]["running_sandboxes"] for each in said) == 5
    assert {each["owner"]["limits"]["running_sandboxes"] for each in said} == {5}


async def test_what_an_admin_gives_one_team_its_owner_may_have(
    owner_of_two: tuple[Platform, httpx2.AsyncClient],
):
    tight, other = owner_of_two
    for _ in range(5):
        assert (await other.post("/v1/sandboxes", json={})).status_code == 201
    exceeded(await tight.api.post("/v1/sandboxes", json={}), "running_sandboxes")
    await set_limits(tight, Limits(running_sandboxes=6))
    assert (await tight.api.post("/v1/sandboxes", json={})).status_code == 201
    exceeded(await tight.api.post("/v1/sandboxes", json={}), "running_sandboxes")


async def test_snapshots_count_for_the_owner_too(owner_of_two: tuple[Platform, httpx2.AsyncClient]):
    tight, other = owner_of_two
    sandbox = (await other.post("/v1/sandboxes", json={})).json()["id"]
    kept = await other.post("/v1/snapshots", json={"sandbox_id": sandbox, "name": "one"})
    assert kept.status_code == 201, kept.text
    taken, own = (await other.get("/v1/limits")).json(), (await tight.api.get("/v1/limits")).json()
    assert taken["usage"]["snapshot_mb"] == own["owner"]["usage"]["snapshot_mb"] > 0
    assert own["usage"]["snapshot_mb"] == 0


async def test_members_of_another_owners_team_do_not_share_its_quota(tight: Platform):
    stranger = await make_team(tight.settings.database_url or "", "eve")
    async with client(tight.url, stranger) as eve:
        for api in (tight.api, eve):
            for _ in range(5):
                assert (await api.post("/v1/sandboxes", json={})).status_code == 201


async def test_a_user_owns_so_many_teams_and_no_more(settings: Settings, host: AgentHost, database_url: str):
    key = await make_team(database_url, "ada")
    accounts = replace(settings.accounts, teams_per_user=3)
    async with running_platform(replace(settings, accounts=accounts), host, key) as platform:
        ada, bob = await sign_up(platform.url), await sign_up(platform.url)
        answers = await asyncio.gather(*(ada.post("/v1/teams", {"name": "x"}) for _ in range(6)))
        assert sorted(a.status_code for a in answers) == [201, 201, 409, 409, 409, 409]
        refusal = next(a for a in answers if a.status_code == 409)
        assert exceeded(refusal, "teams")["limit"] == 3
        here = await bob.add(ada)
        transfer = f"/v1/teams/{bob.team_id}/transfer"
        exceeded(await bob.post(transfer, {"user_id": here.user_id}), "teams")
        own = await ada.at(next(a for a in answers if a.status_code == 201).json()["id"])
        assert (await own.delete(f"/v1/teams/{own.team_id}")).status_code == 204
        assert (await bob.post(transfer, {"user_id": here.user_id})).status_code == 204


async def test_a_team_goes_to_nobody_whose_quotas_it_would_exceed(tight: Platform):
    ada, bob = await sign_up(tight.url), await sign_up(tight.url)
    bobs: list[str] = []
    for person, count in ((ada, 3), (bob, 3)):
        for _ in range(count):
            made = await person.post("/v1/sandboxes", {"memory_mb": 256})
            assert made.status_code == 201, made.text
            if person is bob:
                bobs.append(made.json()["id"])
    await ada.add(bob)
    transfer = f"/v1/teams/{ada.team_id}/transfer"
    error = exceeded(await ada.post(transfer, {"user_id": bob.user_id}), "running_sandboxes")
    assert (error["limit"], error["used"], error["wanted"]) == (5, 3, 3)
    members = (await ada.get(f"/v1/teams/{ada.team_id}")).json()["members"]
    assert {member["email"]: member["role"] for member in members} == {
        ada.email: "owner",
        bob.email: "member",
    }
    bob = await bob.at(bob.team_id)
    assert (await bob.delete(f"/v1/sandboxes/{bobs[0]}")).status_code < 300
    assert (await ada.post(transfer, {"user_id": bob.user_id})).status_code == 204
