"""Hosts for admins of the platform and teams that bring their own: who sees and does what, tags, deletion, placement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text

from wrenn.base.ids import HostId, TeamId
from wrenn.control.audit import PLATFORM_TEAM
from wrenn.control.db import Database
from wrenn.control.fleet import issue_local_token
from wrenn.testing.agent_host import AgentHost

from .conftest import DEADLINE_S, refused, run_sql
from .host_agents import AgentPlayer, create_host, elsewhere, forget_hosts, registered, unwatched
from .people import People, Person, make_admin

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Cast:
    """Who takes part: an admin of the platform, a team that brings its own hosts, and another one."""

    root: Person
    owner: Person
    member: Person
    stranger: Person
    team: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cast(people: People) -> Cast:
    root, owner, someone, stranger = [await people.sign_up(name=n) for n in ("Root", "Ada", "Max", "Eve")]
    await make_admin(people.database_url, root)
    for person in (owner, stranger):
        answer = await root.put(f"/v1/admin/teams/{person.team_id}/byoc", {"enabled": True})
        assert answer.status_code == 204, answer.text
    return Cast(root, owner, await owner.add(someone), stranger, owner.team_id)


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def few_hosts(people: People) -> AsyncIterator[None]:
    """Every host is called some times a second: none outlives its test."""
    yield
    await forget_hosts(people.database_url)


def byoc(team: str) -> dict[str, str]:
    return {"type": "byoc", "team_id": team}


async def ids_seen(person: Person) -> set[str]:
    answer = await person.get("/v1/hosts")
    assert answer.status_code == 200, answer.text
    return {host["id"] for host in answer.json()}


@asynccontextmanager
async def local_host_of(people: People, team: str | None) -> AsyncGenerator[str]:
    """The host of the platform as one of this team; its id."""
    database = people.platform.control.database
    found = await database.execute(text("SELECT id FROM hosts WHERE name = 'local' AND team_id IS NULL"))
    host_id = found.scalar_one()
    try:
        new = "type = 'regular', team_id = NULL"
        if team is not None:
            new = f"type = 'byoc', team_id = '{TeamId.parse(team).value}'"
        await run_sql(people.database_url, f"UPDATE hosts SET {new} WHERE id = '{host_id}'")
        yield str(HostId(host_id))
    finally:
        await run_sql(
            people.database_url,
            f"UPDATE hosts SET type = 'regular', team_id = NULL, deleted_at = NULL WHERE id = '{host_id}'",
        )


async def test_who_creates_which_host(people: People, cast: Cast):
    regular, _ = await create_host(cast.root)
    own, token = await create_host(cast.owner, **byoc(cast.team), name="mine")
    by_root, _ = await create_host(cast.root, **byoc(cast.team))
    assert (own["type"], own["team_id"], own["name"]) == ("byoc", cast.team, "mine")
    assert own["created_by"] == cast.owner.user_id
    assert len(token) == 64
    for person, body in (
        (cast.owner, {"type": "regular"}),
        (cast.member, byoc(cast.team)),
        (cast.owner, byoc(cast.stranger.team_id)),
        (cast.root, byoc(cast.root.team_id)),
    ):
        refused(await person.post("/v1/hosts", body), 403, "forbidden")
    refused(await cast.root.post("/v1/hosts", byoc(str(TeamId.new()))), 404, "not_found")
    assert await ids_seen(cast.member) == await ids_seen(cast.owner) == {own["id"], by_root["id"]}
    assert await ids_seen(cast.stranger) == set()
    assert await ids_seen(cast.root) >= {own["id"], by_root["id"], regular["id"]}
    listed = {host["id"]: host for host in (await cast.root.get("/v1/hosts")).json()}
    assert listed[own["id"]]["team_name"]
    assert "team_name" not in listed[regular["id"]]
    assert "team_name" not in (await cast.owner.get("/v1/hosts")).json()[0]


@pytest.mark.parametrize(
    "body",
    [
        {}, {"type": "other"}, {"type": "byoc"}, {"type": "byoc", "team_id": "x"}, {"type": "regular", "name": "-"},
        {"type": "regular", "name": "x" * 65}, {"type": "regular", "name": "A"}, {"type": "regular", "provider": "a\n"},
        {"type": "regular", "availability_zone": "x" * 65}, {"type": "regular", "team_id": str(TeamId.new())},
        {"type": "regular", "address": "10.0.0.1:1"},
    ],
)  # fmt: skip
async def test_bad_input_creates_nothing(cast: Cast, body: dict[str, Any]):
    before = await ids_seen(cast.root)
    refused(await cast.root.post("/v1/hosts", body), 400, "invalid_request")
    assert await ids_seen(cast.root) == before


async def test_names_are_unique_among_hosts_of_one_owner(cast: Cast):
    answers = await asyncio.gather(
        *(cast.root.post("/v1/hosts", {"type": "regular", "name": "twice"}) for _ in range(4))
    )
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    refused(await cast.root.post("/v1/hosts", {"type": "regular", "name": "local"}), 409, "conflict")
    # What others call theirs is not to be learnt, nor to be taken.
    own, _ = await create_host(cast.owner, **byoc(cast.team), name="local")
    refused(await cast.owner.post("/v1/hosts", {**byoc(cast.team), "name": "local"}), 409, "conflict")
    assert (await cast.owner.delete(f"/v1/hosts/{own['id']}")).status_code == 204
    await create_host(cast.owner, **byoc(cast.team), name="local")


async def test_what_is_not_seen_is_not_there(cast: Cast):
    regular, _ = await create_host(cast.root)
    own, _ = await create_host(cast.owner, **byoc(cast.team))
    for person, host in ((cast.stranger, own), (cast.owner, regular), (cast.member, regular)):
        path = f"/v1/hosts/{host['id']}"
        for answer in (
            await person.get(path),
            await person.get(f"{path}/delete-preview"),
            await person.delete(path),
            await person.post(f"{path}/token"),
            await person.get(f"{path}/tags"),
            await person.post(f"{path}/tags", {"tag": "a"}),
            await person.delete(f"{path}/tags/a"),
        ):
            refused(answer, 404, "not_found")
    path = f"/v1/hosts/{own['id']}"
    refused(await cast.member.delete(path), 403, "forbidden")
    refused(await cast.member.post(f"{path}/token"), 403, "forbidden")
    assert (await cast.member.get(path)).json() == own
    preview: dict[str, Any] = {"host": own, "sandbox_ids": [], "template_count": 0, "template_names": []}
    assert (await cast.member.get(f"{path}/delete-preview")).json() == preview
    refused(await cast.root.get(f"/v1/hosts/{HostId.new()}"), 404, "not_found")
    refused(await cast.root.get("/v1/hosts/host-x"), 400, "invalid_request")


async def test_a_new_token_ends_the_one_before(people: People, cast: Cast):
    own, first = await create_host(cast.owner, **byoc(cast.team))
    answer = await cast.root.post(f"/v1/hosts/{own['id']}/token")
    assert answer.status_code == 201, answer.text
    assert answer.json()["host"] == own
    refused(await AgentPlayer(cast.root.url).register(first), 401, "unauthorized")
    player = AgentPlayer(cast.root.url, address=elsewhere())
    assert (await player.register(answer.json()["registration_token"])).status_code == 201
    assert (await cast.owner.post(f"/v1/hosts/{own['id']}/token")).status_code == 201, "not seen yet"
    await unwatched(people.database_url, player)
    assert (await player.heartbeat()).status_code == 204
    answer = await cast.owner.post(f"/v1/hosts/{own['id']}/token")
    message = refused(answer, 400, "invalid_request")
    assert "wait 90 s" in message
    assert "force" in message


@pytest.mark.parametrize("heard", ["NULL", "now() - interval '91 seconds'"])
async def test_a_host_that_is_reached_and_not_heard_gets_a_token(people: People, cast: Cast, heard: str):
    """Its credentials may be refused, as after a restore of the database."""
    player = await registered(cast.root)
    await unwatched(people.database_url, player)
    row = f"id = '{HostId.parse(player.host_id).value}'"
    await run_sql(
        people.database_url, f"UPDATE hosts SET status = 'online', last_heartbeat_at = {heard} WHERE {row}"
    )
    assert (await cast.root.post(f"/v1/hosts/{player.host_id}/token")).status_code == 201
    assert (await player.heartbeat()).status_code == 204, "nothing was revoked"
    refused(await cast.root.post(f"/v1/hosts/{player.host_id}/token"), 400, "invalid_request")


async def test_a_forced_token_revokes_the_credentials_of_a_host_that_is_online(people: People, cast: Cast):
    player = await registered(cast.owner, **byoc(cast.team))
    await unwatched(people.database_url, player)
    assert (await player.heartbeat()).status_code == 204
    path = f"/v1/hosts/{player.host_id}/token"
    refused(await cast.member.post(f"{path}?force=true"), 403, "forbidden")
    assert (await player.heartbeat()).status_code == 204
    answer = await cast.owner.post(f"{path}?force=true")
    assert answer.status_code == 201, answer.text
    assert set(answer.json()) == {"host", "registration_token"}
    refused(await player.heartbeat(), 401, "unauthorized")
    refused(await player.refresh(), 401, "unauthorized")
    again = AgentPlayer(people.url, address=elsewhere())
    assert (await again.register(answer.json()["registration_token"])).status_code == 201
    assert again.host_id == player.host_id
    log = await cast.owner.get("/v1/audit-logs", params={"resource_type": "host"})
    facts = [entry for entry in log.json()["items"] if entry["resource_id"] == player.host_id]
    assert "revokes_credentials" in str(facts)


async def test_tags(cast: Cast):
    own, _ = await create_host(cast.owner, **byoc(cast.team))
    path = f"/v1/hosts/{own['id']}/tags"
    for tag in ("gpu", "a.b_c-1", "gpu"):
        assert (await cast.member.post(path, {"tag": tag})).status_code == 204
    assert (await cast.owner.get(path)).json() == ["a.b_c-1", "gpu"]
    assert (await cast.owner.get("/v1/hosts")).json()[0]["tags"] == ["a.b_c-1", "gpu"]
    for _ in range(2):
        assert (await cast.member.delete(f"{path}/gpu")).status_code == 204
    assert (await cast.root.get(path)).json() == ["a.b_c-1"]
    for tag in ("", "GPU", "a b", "x" * 65, "ä"):
        refused(await cast.owner.post(path, {"tag": tag}), 400, "invalid_request")
    refused(await cast.owner.delete(f"{path}/GPU"), 400, "invalid_request")
    answers = await asyncio.gather(*(cast.owner.post(path, {"tag": f"t{i}"}) for i in range(33)))
    assert sorted(answer.status_code for answer in answers) == [204] * 31 + [409] * 2
    assert len((await cast.owner.get(path)).json()) == 32


async def test_an_api_key_is_refused(people: People, cast: Cast):
    key = await cast.owner.make_key()
    answer = await cast.owner.call("GET", "/v1/hosts", headers={"X-API-Key": key["key"]})
    assert "log in" in refused(answer, 401, "unauthorized")


async def test_audit_entries_and_events_are_the_owners(cast: Cast, people_database: Database):
    own = await registered(cast.owner, **byoc(cast.team))
    regular = await registered(cast.root)
    for person, player in ((cast.owner, own), (cast.root, regular)):
        path = f"/v1/hosts/{player.host_id}"
        assert (await person.post(f"{path}/tags", {"tag": "a"})).status_code == 204
        assert (await person.delete(f"{path}/tags/a")).status_code == 204
        assert (await person.delete(path)).status_code == 204
    expected = [
        ("create", "admin"), ("register", "admin"), ("add_tag", "team"), ("remove_tag", "team"), ("delete", "admin"),
    ]  # fmt: skip
    for player, team, entries in (
        (own, TeamId.parse(cast.team), expected),
        (regular, PLATFORM_TEAM, [(action, "admin") for action, _ in expected]),
    ):
        found = await people_database.execute(
            text("SELECT team_id, action, scope FROM audit_logs WHERE resource_id = :id ORDER BY created_at"),
            {"id": player.host_id},
        )
        rows = found.all()
        assert {row.team_id for row in rows} == {team.value}
        assert [(r.action, r.scope) for r in rows if not r.action.startswith("marked_")] == entries
        events = await people_database.execute(
            text("SELECT team_id, type FROM events WHERE resource_id = :id ORDER BY id"),
            {"id": player.host_id},
        )
        rows = events.all()
        assert {row.team_id for row in rows} == {team.value}
        kinds = [row.type for row in rows]
        assert kinds[:3] == ["host.created", "host.registered", "host.up"]
        assert kinds[-1] == "host.deleted"
    log = await cast.owner.get("/v1/audit-logs", params={"resource_type": "host"})
    assert {entry["action"] for entry in log.json()["items"]} >= {"create", "delete"}


async def sandboxes_on(people: People, person: Person, count: int) -> list[str]:
    """So many running sandboxes, the first of them paused."""
    answers = await asyncio.gather(*(person.post("/v1/sandboxes") for _ in range(count)))
    ids: list[str] = []
    for answer in answers:
        assert answer.status_code == 201, answer.text
        ids.append(answer.json()["id"])
    assert (await person.post(f"/v1/sandboxes/{ids[0]}/pause")).status_code == 200
    return ids


async def test_a_host_with_sandboxes_is_deleted_only_by_force(people: People, cast: Cast):
    async with local_host_of(people, cast.team) as host_id:
        ids = await sandboxes_on(people, cast.owner, 2)
        kept = await cast.owner.post("/v1/snapshots", {"sandbox_id": ids[1], "name": "kept"})
        assert kept.status_code == 201, kept.text
        preview = (await cast.member.get(f"/v1/hosts/{host_id}/delete-preview")).json()
        assert set(preview["sandbox_ids"]) == set(ids)
        assert (preview["template_count"], preview["template_names"]) == (1, ["kept"])
        answer = await cast.owner.delete(f"/v1/hosts/{host_id}")
        refused(answer, 409, "has_active_sandboxes")
        assert set(answer.json()["error"]["sandbox_ids"]) == set(ids)
        assert answer.json()["error"]["template_names"] == ["kept"]
        assert (await cast.owner.get(f"/v1/sandboxes/{ids[1]}")).json()["status"] == "running"
        answer = await cast.owner.delete(f"/v1/hosts/{host_id}", params={"force": "true"})
        assert answer.status_code == 204, answer.text
        for sandbox_id in ids:
            assert (await cast.owner.get(f"/v1/sandboxes/{sandbox_id}")).json()["status"] == "stopped"
        refused(await cast.owner.post(f"/v1/sandboxes/{ids[0]}/resume"), 409, "invalid_state")
        names = [t["name"] for t in (await cast.owner.get("/v1/snapshots")).json()]
        assert "kept" not in names
        refused(await cast.owner.get(f"/v1/hosts/{host_id}"), 404, "not_found")
        refused(await cast.owner.delete(f"/v1/hosts/{host_id}"), 404, "not_found")
        assert host_id not in await ids_seen(cast.root)
        refused(await cast.owner.post("/v1/sandboxes"), 503, "no_hosts_available")
        await people.platform.control.sweep.sweep_once()
        rows = await people.platform.control.database.execute(
            text("SELECT 1 FROM templates WHERE host_id = :id"), {"id": HostId.parse(host_id).value}
        )
        assert rows.all() == []


async def test_a_host_with_only_templates_is_deleted_only_by_force(people: People, cast: Cast):
    async with local_host_of(people, cast.team) as host_id:
        sandbox = (await cast.owner.post("/v1/sandboxes")).json()["id"]
        made = await cast.owner.post("/v1/snapshots", {"sandbox_id": sandbox, "name": "alone"})
        assert made.status_code == 201, made.text
        assert (await cast.owner.delete(f"/v1/sandboxes/{sandbox}")).status_code == 204
        answer = await cast.owner.delete(f"/v1/hosts/{host_id}")
        refused(answer, 409, "has_active_sandboxes")
        error = answer.json()["error"]
        assert (error["sandbox_ids"], error["template_names"]) == ([], ["alone"])
        assert (await cast.owner.delete("/v1/snapshots/alone")).status_code == 204
        preview = (await cast.owner.get(f"/v1/hosts/{host_id}/delete-preview")).json()
        assert (preview["template_count"], preview["template_names"]) == (0, [])
        assert (await cast.owner.delete(f"/v1/hosts/{host_id}")).status_code == 204


async def test_a_create_under_way_does_not_survive_on_a_deleted_host(people: People, cast: Cast):
    """Whichever is first, no sandbox is live on the host afterwards, and who waits for one is answered."""
    host: AgentHost = people.platform.host
    host.calls.clear()
    async with local_host_of(people, cast.team) as host_id:
        released = host.switches.hold["ensure_sandbox"] = asyncio.Event()
        creates = [asyncio.create_task(cast.owner.post("/v1/sandboxes")) for _ in range(3)]
        await host.wait_call("ensure_sandbox")
        creates += [asyncio.create_task(cast.owner.post("/v1/sandboxes")) for _ in range(5)]
        deletion = await cast.owner.delete(f"/v1/hosts/{host_id}", params={"force": "true"})
        assert deletion.status_code == 204, deletion.text
        async with asyncio.timeout(DEADLINE_S):
            answers = await asyncio.gather(*creates)
        released.set()
        del host.switches.hold["ensure_sandbox"]
        assert {answer.status_code for answer in answers} <= {409, 503}, "none was said to run"
        live = await people.platform.control.database.execute(
            text("SELECT 1 FROM sandboxes WHERE host_id = :id AND status NOT IN ('stopped', 'error')"),
            {"id": HostId.parse(host_id).value},
        )
        assert live.all() == []
    # The host is back only in this test: it removes what has ended.
    await people.platform.control.comparison.compare_once()


@pytest.mark.parametrize("what", ["snapshot", "fork"])
async def test_a_snapshot_or_fork_under_way_leaves_nothing_on_a_deleted_host(
    people: People, cast: Cast, what: str
):
    host: AgentHost = people.platform.host
    host.calls.clear()
    database = people.platform.control.database
    async with local_host_of(people, cast.team) as host_id:
        sandbox = (await cast.owner.post("/v1/sandboxes")).json()["id"]
        held = host.switches.hold["ensure_snapshot"] = asyncio.Event()
        if what == "snapshot":
            call = cast.owner.post("/v1/snapshots", {"sandbox_id": sandbox, "name": "late"})
        else:
            call = cast.owner.post(f"/v1/sandboxes/{sandbox}/fork", {})
        making = asyncio.create_task(call)
        await host.wait_call("ensure_snapshot")
        deletion = await cast.owner.delete(f"/v1/hosts/{host_id}", params={"force": "true"})
        assert deletion.status_code == 204, deletion.text
        held.set()
        del host.switches.hold["ensure_snapshot"]
        answer = await making
        assert answer.status_code in (409, 503), answer.text
        await people.platform.control.sweep.sweep_once()
        values = {"id": HostId.parse(host_id).value}
        left = await database.execute(text("SELECT 1 FROM templates WHERE host_id = :id"), values)
        assert left.all() == []
        live = await database.execute(
            text("SELECT 1 FROM sandboxes WHERE host_id = :id AND status NOT IN ('stopped', 'error')"), values
        )
        assert live.all() == []
    await people.platform.control.comparison.compare_once()


async def test_byoc_hosts_are_for_their_team_and_its_team_for_no_other(people: People, cast: Cast):
    async with local_host_of(people, cast.team):
        assert (await cast.owner.post("/v1/sandboxes")).status_code == 201
        assert [t["name"] for t in (await cast.owner.get("/v1/snapshots")).json()] == ["minimal"]
        for person in (cast.stranger, cast.root):
            refused(await person.post("/v1/sandboxes"), 503, "no_hosts_available")
            listed = (await person.get("/v1/snapshots")).json()
            assert [template["name"] for template in listed] == ["minimal"]
    refused(await cast.owner.post("/v1/sandboxes"), 503, "no_hosts_available")
    assert (await cast.root.post("/v1/sandboxes")).status_code == 201


async def test_a_sandbox_is_placed_by_the_tags_of_hosts_and_a_refusal_is_explained(
    people: People, cast: Cast
):
    async with local_host_of(people, cast.team) as host_id:
        # A host that has the tag, and does not answer.
        silent = await registered(cast.owner, **byoc(cast.team))
        gone = "status = 'unreachable', last_seen_at = now() - interval '1 hour'"
        row = f"id = '{HostId.parse(silent.host_id).value}'"
        await run_sql(people.database_url, f"UPDATE hosts SET {gone} WHERE {row}")
        assert (await cast.owner.post(f"/v1/hosts/{silent.host_id}/tags", {"tag": "nvme"})).status_code == 204
        tagged = {"host_tags": ["nvme", "nvme"]}
        answer = await cast.owner.post("/v1/sandboxes", tagged)
        refusal = refused(answer, 503, "no_hosts_available")
        assert "not reachable (1 host), without the tags (1 host)" in refusal
        for bad in ("", "A", "x" * 65):
            refused(await cast.owner.post("/v1/sandboxes", {"host_tags": [bad]}), 400, "invalid_request")
        asked = {"team_id": cast.team, "host_tags": "nvme", "vcpus": "1"}
        explained = (await cast.root.get("/v1/hosts/explain", params=asked)).json()
        assert explained["refusal"] == refusal
        assert {host["id"]: host["removed_by"] for host in explained["hosts"]} == {
            host_id: "tags",
            silent.host_id: "reachable",
        }
        assert sum(explained["removed"].values()) == 2
        assert (await cast.owner.post(f"/v1/hosts/{host_id}/tags", {"tag": "nvme"})).status_code == 204
        try:
            sandbox = await cast.owner.post("/v1/sandboxes", tagged)
            assert sandbox.status_code == 201, sandbox.text
            explained = (await cast.root.get("/v1/hosts/explain", params=asked)).json()
            assert "refusal" not in explained
            best = explained["hosts"][0]
            assert explained["host_id"] == best["id"] == host_id
            assert (best["is_ready"], best["creates"], 0 < best["score"] < 1.1) == (True, 0, True)
            assert best["sandboxes"] >= 1
        finally:
            assert (await cast.owner.delete(f"/v1/hosts/{host_id}/tags/nvme")).status_code == 204
        # For a team without hosts of its own, and for one that does not exist.
        explained = (await cast.root.get("/v1/hosts/explain")).json()
        assert explained["removed"]["team"] == len(explained["hosts"])
        unknown = {"team_id": str(TeamId.new())}
        refused(await cast.root.get("/v1/hosts/explain", params=unknown), 404, "not_found")
        for bad in ({"vcpus": "0"}, {"template": "\0"}):
            refused(await cast.root.get("/v1/hosts/explain", params=bad), 400, "invalid_request")


async def test_what_a_team_has_on_a_regular_host_stays_there(people: People, cast: Cast):
    person = await people.sign_up()
    sandbox = (await person.post("/v1/sandboxes")).json()["id"]
    assert (await person.post(f"/v1/sandboxes/{sandbox}/pause")).status_code == 200
    assert (
        await cast.root.put(f"/v1/admin/teams/{person.team_id}/byoc", {"enabled": True})
    ).status_code == 204
    assert (await person.post(f"/v1/sandboxes/{sandbox}/resume")).status_code == 200
    refused(await person.post("/v1/sandboxes"), 503, "no_hosts_available")
    assert (await person.delete(f"/v1/sandboxes/{sandbox}")).status_code == 204


async def test_a_host_that_has_not_registered_is_not_called(people: People, cast: Cast):
    host, _ = await create_host(cast.root)
    for _ in range(2):
        await people.platform.control.monitor.look_once()
        await people.platform.control.comparison.compare_once()
    assert (await cast.root.get(f"/v1/hosts/{host['id']}")).json() == host


async def test_the_hosts_of_a_team_go_with_it(people: People, cast: Cast):
    person = await people.sign_up()
    assert (
        await cast.root.put(f"/v1/admin/teams/{person.team_id}/byoc", {"enabled": True})
    ).status_code == 204
    _, token = await create_host(person, **byoc(person.team_id))
    player = await registered(person, **byoc(person.team_id))
    assert (await person.delete(f"/v1/teams/{person.team_id}")).status_code == 204
    refused(await player.heartbeat(), 404, "host_deleted")
    refused(await AgentPlayer(person.url).register(token), 401, "unauthorized")
    assert player.host_id not in await ids_seen(cast.root)


async def test_the_operator_registers_the_machine_of_wrenn_up(people: People, cast: Cast):
    made, first = await issue_local_token(people.database_url, name="here")
    again, second = await issue_local_token(people.database_url, name="here")
    assert made == again
    refused(await AgentPlayer(people.url).register(first.reveal()), 401, "unauthorized")
    player = AgentPlayer(people.url)
    assert (await player.register(second.reveal())).status_code == 201
    await unwatched(people.database_url, player)
    assert (await player.heartbeat()).status_code == 204
    shown = (await cast.root.get(f"/v1/hosts/{made}")).json()
    assert (shown["type"], shown["status"], shown["name"]) == ("regular", "online", "here")
    assert "created_by" not in shown
    # Also of a host that is online: the operator has the machine.
    same, third = await issue_local_token(people.database_url, name="here")
    assert (same, (await player.register(third.reveal())).status_code) == (made, 201)
    assert (await cast.root.delete(f"/v1/hosts/{made}")).status_code == 204
    other, _ = await issue_local_token(people.database_url, name="here")
    assert other != made
