"""Teams, members, API keys, administration: over two replicas on one database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import select

from wrenn.base.ids import TeamId, UserId
from wrenn.base.secrets import Secret
from wrenn.control.db import Database
from wrenn.control.identity import team_api_keys, teams, users_teams

from .conftest import DEADLINE_S, client, refused, row_locked, run_sql
from .event_reader import reading
from .people import (
    People,
    Person,
    make_admin,
    new_email,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("forget_attempts")]


async def roles(database: Database, team_id: str) -> dict[str, str]:
    """Role by wire id of the user."""
    query = select(users_teams).where(users_teams.c.team_id == TeamId.parse(team_id).value)
    return {str(UserId(row.user_id)): row.role for row in await database.execute(query)}


async def test_a_team_is_made_renamed_and_deleted(people: People, people_database: Database):
    ada = await people.sign_up()
    made = await ada.post("/v1/teams", {"name": "Ada & co"})
    refused(made, 400, "invalid_request")
    made = await ada.post("/v1/teams", {"name": " Ada's other-team_2 "})
    assert made.status_code == 201
    team = made.json()
    assert (team["name"], team["role"], team["is_byoc"]) == ("Ada's other-team_2", "owner", False)
    assert [t["id"] for t in (await ada.get("/v1/teams")).json()] == [ada.team_id, team["id"]]
    refused(await ada.get(f"/v1/teams/{team['id']}"), 403, "forbidden")  # the token is for the first
    there = await ada.at(team["id"])
    path = f"/v1/teams/{team['id']}"
    assert (await there.patch(path, {"name": "Renamed"})).status_code == 204
    found = (await there.get(path)).json()
    assert found["team"]["name"] == "Renamed"
    assert [member["email"] for member in found["members"]] == [ada.email]
    assert (await there.delete(path)).status_code == 204
    refused(await there.get(path), 403, "forbidden")
    refused(await there.post("/v1/auth/switch-team", {"team_id": team["id"]}), 404, "not_found")
    slug = select(teams.c.slug).where(teams.c.id == TeamId.parse(team["id"]).value)
    assert (await people_database.execute(slug)).scalar_one() == team["slug"]


async def test_a_team_has_events_of_its_name_and_members(people: People):
    ada, eve = await people.sign_up(), await people.sign_up()
    async with client(people.second.url, None) as api:
        api.headers["Authorization"] = f"Bearer {ada.token}"
        async with reading(api, types="team") as reader:
            await ada.add(eve, "admin")
            assert (await ada.patch(f"/v1/teams/{ada.team_id}", {"name": "Other"})).status_code == 204
            assert (await ada.patch(f"/v1/teams/{ada.team_id}", {"name": "Other"})).status_code == 204
            path = f"/v1/teams/{ada.team_id}/members/{eve.user_id}"
            assert (await ada.delete(path)).status_code == 204
            found = await reader.take(4)
    assert [(kind, event["resource_id"], event["data"]) for kind, event in found] == [
        ("team.member.added", eve.user_id, {"role": "member"}),
        ("team.member.updated", eve.user_id, {"role": "admin"}),
        ("team.updated", ada.team_id, {"name": "Other", "is_byoc": False}),
        ("team.member.removed", eve.user_id, {"role": "admin"}),
    ]


async def test_a_deleted_team_loses_keys_at_once_and_its_sandboxes_and_templates_soon(people: People):
    ada = await people.sign_up()
    key = Secret((await ada.make_key())["key"])
    sandbox = (await ada.post("/v1/sandboxes")).json()["id"]
    host_name = next(name for name in people.platform.host.sandbox_ids if name == sandbox)
    assert (await ada.post("/v1/snapshots", {"sandbox_id": sandbox, "name": "mine"})).status_code == 201
    snapshots = set(people.platform.host.snapshot_ids)
    assert (await ada.delete(f"/v1/teams/{ada.team_id}")).status_code == 204
    async with client(people.second.url, key) as api:
        refused(await api.get(f"/v1/sandboxes/{sandbox}"), 401, "unauthorized")
        refused(await api.post("/v1/sandboxes", json={}), 401, "unauthorized")
    async with asyncio.timeout(DEADLINE_S):
        while host_name in people.platform.host.sandbox_ids:
            await asyncio.sleep(0.05)
        while snapshots & set(people.platform.host.snapshot_ids):
            await asyncio.sleep(0.05)


async def test_what_is_made_while_a_team_ends_ends_with_it(people: People):
    ada = await people.sign_up()
    key = Secret((await ada.make_key())["key"])
    before = set(people.platform.host.sandbox_ids)
    async with client(people.second.url, key) as api:
        creates = [asyncio.create_task(api.post("/v1/sandboxes", json={})) for _ in range(6)]
        assert (await ada.delete(f"/v1/teams/{ada.team_id}")).status_code == 204
        answers = await asyncio.gather(*creates)
    assert {answer.status_code for answer in answers} <= {201, 401, 404, 409, 503}
    async with asyncio.timeout(DEADLINE_S):
        while set(people.platform.host.sandbox_ids) - before:
            await asyncio.sleep(0.05)


async def test_members_come_go_and_change(people: People):
    ada, bob, eve = [await people.sign_up(name=name) for name in ("Ada", "Bob", "Eve")]
    path = f"/v1/teams/{ada.team_id}/members"
    bob_here = await ada.add(bob)
    refused(await ada.post(path, {"email": f" {bob.email.upper()} "}), 400, "invalid_request")
    assert [m["email"] for m in (await bob_here.get(path)).json()] == [ada.email, bob.email]
    # A member may not administer, an admin may, nobody touches the owner.
    refused(await bob_here.post(path, {"email": eve.email}), 403, "forbidden")
    refused(await bob_here.patch(f"/v1/teams/{ada.team_id}", {"name": "Bob's"}), 403, "forbidden")
    assert (await ada.patch(f"{path}/{bob.user_id}", {"role": "admin"})).status_code == 204
    eve_here = await bob_here.add(eve)
    refused(await bob_here.patch(f"{path}/{ada.user_id}", {"role": "member"}), 403, "forbidden")
    refused(await bob_here.delete(f"{path}/{ada.user_id}"), 403, "forbidden")
    refused(await bob_here.delete(f"/v1/teams/{ada.team_id}"), 403, "forbidden")
    refused(await ada.patch(f"{path}/{bob.user_id}", {"role": "owner"}), 400, "invalid_request")
    refused(await ada.post(f"/v1/teams/{ada.team_id}/leave"), 403, "forbidden")
    refused(await ada.delete(f"{path}/usr-{'0' * 25}"), 404, "not_found")
    refused(await ada.delete(f"{path}/nobody"), 400, "invalid_request")
    assert (await eve_here.post(f"/v1/teams/{ada.team_id}/leave")).status_code == 204
    refused(await eve_here.get(path), 403, "forbidden")


async def test_a_removed_member_is_out_at_once(people: People):
    ada, bob = await people.sign_up(), await people.sign_up()
    bob_here = await ada.add(bob)
    assert (await bob_here.get("/v1/sandboxes")).status_code == 200
    assert (await ada.delete(f"/v1/teams/{ada.team_id}/members/{bob.user_id}")).status_code == 204
    bob_here.url = people.second.url
    refused(await bob_here.get("/v1/sandboxes"), 403, "forbidden")
    refused(await bob_here.get(f"/v1/sandboxes/cl-{'0' * 25}"), 403, "forbidden")
    refused(await bob_here.post("/v1/api-keys"), 403, "forbidden")
    # The next token is for the user's own team.
    assert (await bob.refresh()).json()["team_id"] == bob.team_id


async def removed(ada: Person, bob: Person, **params: str) -> None:
    path = f"/v1/teams/{ada.team_id}/members/{bob.user_id}"
    assert (await ada.delete(path, params=params)).status_code == 204


async def left(ada: Person, bob: Person) -> None:
    assert (await (await bob.at(ada.team_id)).post(f"/v1/teams/{ada.team_id}/leave")).status_code == 204


async def deleted_account(ada: Person, bob: Person) -> None:
    assert (await bob.delete("/v1/me", {"confirmation": bob.email})).status_code == 204


GOING: list[tuple[str | None, Callable[..., Awaitable[None]], dict[str, str], int]] = [
    (None, removed, {}, 401),
    (None, removed, {"revoke_keys": "false"}, 200),
    (None, left, {}, 401),
    (None, deleted_account, {}, 401),
    ("keep", removed, {}, 200),
    ("keep", removed, {"revoke_keys": "true"}, 401),
    ("keep", left, {}, 200),
    ("keep", deleted_account, {}, 200),
    ("revoke", removed, {}, 401),
]


async def test_what_becomes_of_the_keys_of_who_goes_is_the_teams_choice_and_else_they_are_revoked(
    people: People, subtests: pytest.Subtests
):
    for choice, go, params, status in GOING:
        with subtests.test(f"{choice} {go.__name__} {params}"):
            ada, bob = await people.sign_up(), await people.sign_up()
            team = f"/v1/teams/{ada.team_id}"
            if choice is not None:
                assert (await ada.patch(team, {"keys_of_removed": choice})).status_code == 204
            assert (await ada.get(team)).json()["team"]["keys_of_removed"] == (choice or "revoke")
            key = Secret((await (await ada.add(bob)).make_key())["key"])
            await go(ada, bob, **params)
            async with client(people.second.url, key) as api:
                assert (await api.get("/v1/sandboxes")).status_code == status


async def test_only_admins_choose_what_becomes_of_keys(people: People):
    ada = await people.sign_up()
    bob_here = await ada.add(await people.sign_up())
    team = f"/v1/teams/{ada.team_id}"
    refused(await bob_here.patch(team, {"keys_of_removed": "keep"}), 403, "forbidden")
    refused(await ada.patch(team, {"keys_of_removed": "sell"}), 400, "invalid_request")


async def test_a_team_is_transferred(people: People, people_database: Database):
    ada, bob = await people.sign_up(), await people.sign_up()
    transfer = f"/v1/teams/{ada.team_id}/transfer"
    refused(await ada.post(transfer, {"user_id": bob.user_id}), 404, "not_found")
    bob_here = await ada.add(bob)
    refused(await ada.post(transfer, {"user_id": ada.user_id}), 400, "invalid_request")
    refused(await bob_here.post(transfer, {"user_id": ada.user_id}), 403, "forbidden")
    assert (await ada.post(transfer, {"user_id": bob.user_id})).status_code == 204
    assert await roles(people_database, ada.team_id) == {ada.user_id: "admin", bob.user_id: "owner"}
    assert (await ada.post(f"/v1/teams/{ada.team_id}/leave")).status_code == 204


async def test_whatever_happens_at_once_a_team_has_one_owner(people: People, people_database: Database):
    ada = await people.sign_up()
    others = [await people.sign_up() for _ in range(3)]
    here = [ada, *[await ada.add(other, "admin") for other in others]]
    path = f"/v1/teams/{ada.team_id}"

    def storm(seed: int) -> list[Coroutine[Any, Any, httpx2.Response]]:
        me, you, third = (here[(seed + i) % 4] for i in range(3))
        return [
            me.post(f"{path}/transfer", {"user_id": you.user_id}),
            me.post(f"{path}/transfer", {"user_id": third.user_id}),
            you.patch(f"{path}/members/{me.user_id}", {"role": "member"}),
            me.patch(f"{path}/members/{you.user_id}", {"role": "admin"}),
            third.delete(f"{path}/members/{you.user_id}"),
            me.post(f"{path}/leave"),
        ]

    for seed in range(4):
        answers = await asyncio.gather(*storm(seed))
        assert {a.status_code for a in answers} <= {204, 400, 403, 404}, [a.text for a in answers]
        held = list((await roles(people_database, ada.team_id)).values())
        assert held.count("owner") == 1, held


async def test_users_are_found_where_they_may_be_seen(people: People):
    ada, bob = await people.sign_up(new_email("xyz_ada")), await people.sign_up(new_email("xyz_bob"))
    stranger = await people.sign_up(new_email("xyz_eve"))
    await ada.add(bob)

    async def found(text: str) -> list[str]:
        answer = await ada.get("/v1/users/search", params={"email": text})
        assert answer.status_code == 200, answer.text
        return sorted(user["email"] for user in answer.json())

    assert await found("xyz") == sorted([ada.email, bob.email])
    assert await found(" XYZ_B ") == [bob.email]
    assert await found(stranger.email) == [stranger.email]
    assert await found(stranger.email[:-1]) == []
    for wildcard in ("xyz%", "xy__ada", "%%%", "\\_\\"):
        assert await found(wildcard) == []
    refused(await ada.get("/v1/users/search", params={"email": "\0@x"}), 400, "invalid_request")
    refused(await ada.get("/v1/users/search", params={"email": "xy"}), 400, "invalid_request")
    refused(await ada.get("/v1/users/search"), 400, "invalid_request")
    answers = [await ada.get("/v1/users/search", params={"email": "abc"}) for _ in range(30)]
    refused(answers[-1], 429, "rate_limited")


async def test_keys_are_made_listed_and_revoked_on_all_replicas(people: People):
    ada = await people.sign_up()
    made = await ada.make_key(name="robot")
    assert made["key"].startswith(made["key_prefix"])
    assert (made["scope"], made["created_by"], made["name"]) == ("full", ada.user_id, "robot")
    assert "expires_at" not in made
    [listed] = (await ada.get("/v1/api-keys")).json()
    assert listed == {k: v for k, v in made.items() if k != "key"}
    assert listed["creator_email"] == ada.email
    async with client(people.second.url, Secret(made["key"])) as api:
        assert (await api.get("/v1/sandboxes")).status_code == 200
        for _ in range(2):
            assert (await ada.delete(f"/v1/api-keys/{made['id']}")).status_code == 204
        refused(await api.get("/v1/sandboxes"), 401, "unauthorized")
        # Keys make no keys.
        refused(await api.get("/v1/api-keys"), 401, "unauthorized")
    refused(await ada.delete("/v1/api-keys/key-x"), 400, "invalid_request")
    assert (await ada.make_key())["name"] == "Unnamed API Key"


async def test_a_key_of_another_team_cannot_be_revoked(people: People):
    ada, eve = await people.sign_up(), await people.sign_up()
    made = await ada.make_key()
    assert (await eve.delete(f"/v1/api-keys/{made['id']}")).status_code == 204
    assert len((await ada.get("/v1/api-keys")).json()) == 1


async def test_an_expired_key_is_no_key(people: People):
    ada = await people.sign_up()
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    refused(await ada.post("/v1/api-keys", {"expires_at": past}), 400, "invalid_request")
    refused(await ada.post("/v1/api-keys", {"expires_at": "2999-01-01T00:00:00"}), 400, "invalid_request")
    made = await ada.make_key(expires_at="2999-01-01T00:00:00+02:00")
    assert made["expires_at"] == "2998-12-31T22:00:00Z"
    async with client(people.url, Secret(made["key"])) as api:
        assert (await api.get("/v1/sandboxes")).status_code == 200
        await run_sql(
            people.database_url,
            f"UPDATE team_api_keys SET expires_at = now() WHERE key_prefix = '{made['key_prefix']}'",
        )
        refused(await api.get("/v1/sandboxes"), 401, "unauthorized")


async def test_a_key_does_what_its_scope_says(people: People):
    ada = await people.sign_up()
    keys = {scope: (await ada.make_key(scope=scope))["key"] for scope in ("full", "sandboxes", "read")}
    refused(await ada.post("/v1/api-keys", {"scope": "everything"}), 400, "invalid_request")
    async with client(people.url, Secret(keys["sandboxes"])) as worker:
        path = f"/v1/sandboxes/{(await worker.post('/v1/sandboxes', json={})).json()['id']}"
        async with client(people.url, Secret(keys["read"])) as reader:
            assert (await reader.get(path)).status_code == 200
            for method, rest, body in (
                ("POST", "/exec", {"cmd": "id"}),
                ("POST", "/files/read", {"path": "/"}),
                ("DELETE", "", {}),
                ("POST", "/pause", {}),
            ):
                refused(await reader.request(method, path + rest, json=body), 403, "forbidden")
            refused(await reader.post("/v1/sandboxes", json={}), 403, "forbidden")
        assert (await worker.delete(path)).status_code == 204
        for method, where, body in (
            ("POST", "/v1/builds", {"name": "app", "recipe": ["RUN id"]}),
            ("DELETE", "/v1/templates/app", {}),
            ("POST", "/e2b/v3/templates", {"name": "app"}),
            ("DELETE", "/e2b/templates/tags", {"name": "app", "tags": ["x"]}),
        ):
            answer = await worker.request(method, where, json=body)
            assert answer.status_code == 403, (where, answer.text)
        for where in ("/v1/templates", "/v1/builds", "/e2b/v2/templates"):
            assert (await worker.get(where)).status_code == 200, where


async def test_the_use_of_a_key_is_written_at_most_once_a_minute(people: People, people_database: Database):
    ada = await people.sign_up()
    made = await ada.make_key()
    find = select(team_api_keys.c.last_used).where(team_api_keys.c.key_prefix == made["key_prefix"])
    async with client(people.url, Secret(made["key"])) as api:
        await api.get("/v1/sandboxes")
        async with asyncio.timeout(DEADLINE_S):
            while (first := (await people_database.execute(find)).scalar_one()) is None:
                await asyncio.sleep(0.05)
        for _ in range(5):
            await api.get("/v1/sandboxes")
    assert (await people_database.execute(find)).scalar_one() == first


async def test_admins_see_all_users_and_teams(people: People):
    root, ada = await people.sign_up(), await people.sign_up()
    await make_admin(people.database_url, root)
    await ada.post("/v1/sandboxes")
    page = (await root.get("/v1/admin/users")).json()
    assert page["total"] >= 2
    mine = next(user for user in page["users"] if user["user_id"] == ada.user_id)
    assert (mine["status"], mine["teams_joined"], mine["teams_owned"], mine["is_admin"]) == (
        "active",
        1,
        1,
        False,
    )
    assert (await root.get("/v1/admin/users", params={"page": 1000})).json()["users"] == []
    refused(await root.get("/v1/admin/users", params={"page": 0}), 400, "invalid_request")
    listed = (await root.get("/v1/admin/teams")).json()["teams"]
    team = next(team for team in listed if team["id"] == ada.team_id)
    assert (team["member_count"], team["owner_email"], team["active_sandbox_count"]) == (1, ada.email, 1)
    refused(await ada.get("/v1/admin/users"), 403, "forbidden")


async def test_admins_change_users_and_teams(people: People):
    root, ada = await people.sign_up(), await people.sign_up()
    await make_admin(people.database_url, root)
    byoc = f"/v1/admin/teams/{ada.team_id}/byoc"
    refused(await root.put(byoc, {"enabled": False}), 400, "invalid_request")
    for _ in range(2):
        assert (await root.put(byoc, {"enabled": True})).status_code == 204
    assert (await ada.get("/v1/teams")).json()[0]["is_byoc"] is True
    refused(await root.put(f"/v1/admin/teams/team-{'0' * 25}/byoc", {"enabled": True}), 404, "not_found")
    refused(await root.put(f"/v1/admin/users/usr-{'0' * 25}/active", {"active": True}), 404, "not_found")
    refused(
        await root.put(f"/v1/admin/users/{root.user_id}/active", {"active": False}), 400, "invalid_request"
    )
    admin = f"/v1/admin/users/{ada.user_id}/admin"
    # Whose account it is, nobody knows: anybody can sign up with this address.
    refused(await root.put(admin, {"admin": True}), 409, "email_not_verified")
    refused(await ada.get("/v1/admin/users"), 403, "forbidden")
    listed = {each["user_id"]: each for each in (await root.get("/v1/admin/users")).json()["users"]}
    assert listed[ada.user_id]["email_verified"] is False
    assert (await root.put(admin, {"admin": True, "accept_unverified": True})).status_code == 204
    assert (await root.put(admin, {"admin": False})).status_code == 204
    await run_sql(
        people.database_url, f"UPDATE users SET email_verified_at = now() WHERE email = '{ada.email}'"
    )
    assert (await root.put(admin, {"admin": True})).status_code == 204
    assert (await ada.get("/v1/admin/users")).status_code == 200
    assert (await root.put(admin, {"admin": False})).status_code == 204
    refused(await ada.get("/v1/admin/users"), 403, "forbidden")
    assert (await root.delete(f"/v1/admin/teams/{ada.team_id}")).status_code == 204
    refused(await ada.get("/v1/sandboxes"), 403, "forbidden")


async def test_the_platform_keeps_an_admin(people: People):
    await run_sql(people.database_url, "UPDATE users SET is_admin = false")
    pair = [await people.sign_up(), await people.sign_up()]
    for person in pair:
        await make_admin(people.database_url, person)
    one, two = pair
    answers = await asyncio.gather(
        one.put(f"/v1/admin/users/{two.user_id}/admin", {"admin": False}),
        two.put(f"/v1/admin/users/{one.user_id}/admin", {"admin": False}),
        one.delete("/v1/me", {"confirmation": one.email}),
        two.delete("/v1/me", {"confirmation": two.email}),
    )
    assert 204 in [answer.status_code for answer in answers]
    assert {answer.status_code for answer in answers} <= {204, 401, 403, 404, 409}
    left = [p for p in pair if (await p.get("/v1/admin/users")).status_code == 200]
    assert len(left) == 1
    last = left[0]
    refused(await last.put(f"/v1/admin/users/{last.user_id}/admin", {"admin": False}), 409, "last_admin")
    refused(await last.delete("/v1/me", {"confirmation": last.email}), 409, "last_admin")


async def test_a_team_that_is_transferred_to_an_account_that_ends_keeps_its_owner(
    people: People, people_database: Database
):
    ada, bob = await people.sign_up(), await people.sign_up()
    await ada.add(bob)
    row = f"SELECT FROM users WHERE email = '{bob.email}'"
    async with asyncio.TaskGroup() as group:
        async with row_locked(people.database_url, row) as wait_blocked:
            ended = group.create_task(bob.delete("/v1/me", {"confirmation": bob.email}))
            await wait_blocked(1)
            path = f"/v1/teams/{ada.team_id}/transfer"
            transfer = group.create_task(ada.post(path, {"user_id": bob.user_id}))
            await wait_blocked(2)
    assert ended.result().status_code == 204
    refused(transfer.result(), 404, "not_found")
    assert await roles(people_database, ada.team_id) == {ada.user_id: "owner"}


async def test_an_account_that_ends_leaves_no_key_or_membership_that_is_being_made(
    people: People, people_database: Database
):
    ada, bob = await people.sign_up(), await people.sign_up()
    there = await ada.add(bob)
    cleo = await people.sign_up()
    token = await cleo.invite(bob.email)
    row = f"SELECT FROM users WHERE email = '{bob.email}'"
    async with asyncio.TaskGroup() as group:
        async with row_locked(people.database_url, row) as wait_blocked:
            ended = group.create_task(bob.delete("/v1/me", {"confirmation": bob.email}))
            await wait_blocked(1)
            given = [
                group.create_task(there.post("/v1/api-keys", {})),
                group.create_task(there.post("/v1/invitations/accept", {"token": token})),
                group.create_task(there.post("/v1/teams", {"name": "Another"})),
            ]
            await wait_blocked(4)
    assert ended.result().status_code == 204
    assert {task.result().status_code for task in given} == {401}
    assert (await ada.get("/v1/api-keys")).json() == []
    assert await roles(people_database, cleo.team_id) == {cleo.user_id: "owner"}
