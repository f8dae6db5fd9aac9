"""What users and admins do with teams, members, keys and accounts is in the audit log, once, if it was done."""

from __future__ import annotations

from typing import Any

import pytest

from wrenn.base.ids import TeamId
from wrenn.base.secrets import Secret
from wrenn.control.administration import create_admin
from wrenn.control.audit.entries import PLATFORM_TEAM, Entry, Scope
from wrenn.control.audit_log.store import Filter, read
from wrenn.control.db import Database, settled_moment

from .conftest import refused
from .people import PASSWORD, People, Person, make_admin, new_email

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("forget_attempts")]

Line = tuple[str, str, str, str, str, dict[str, Any]]
"""Actor's name, thing, its id, action, status, facts."""


async def log_of(person: Person, path: str = "/v1/audit-logs") -> list[dict[str, Any]]:
    """What this person sees, oldest first."""
    answer = await person.get(path, params={"limit": 200})
    assert answer.status_code == 200, answer.text
    return answer.json()["items"][::-1]


def lines(items: list[dict[str, Any]]) -> list[Line]:
    return [
        (
            item.get("actor_name", item["actor_type"]),
            item["resource_type"],
            item["resource_id"],
            item["action"],
            item["status"],
            item.get("metadata", {}),
        )
        for item in items
    ]


async def stored(database: Database, team_id: str) -> list[Entry]:
    """The log of a team that nobody can ask for any more, oldest first."""
    until = await settled_moment(database)
    page = await read(database, TeamId.parse(team_id), frozenset(Scope), Filter(), until=until, limit=100)
    found = page.entries
    return found[::-1]


async def test_what_a_teams_people_do_is_in_its_log(people: People, people_database: Database):
    ada, bob, eve = [await people.sign_up(name=name) for name in ("Ada", "Bob", "Eve")]
    assert lines(await log_of(ada)) == [("Ada", "team", ada.team_id, "create", "success", {})]
    team = (await ada.post("/v1/teams", {"name": "Old"})).json()["id"]
    ada = await ada.at(team)
    members = f"/v1/teams/{team}/members"
    for _ in range(2):
        assert (await ada.patch(f"/v1/teams/{team}", {"name": "New"})).status_code == 204
    bob_here = await ada.add(bob, "admin")
    assert (await ada.patch(f"{members}/{bob.user_id}", {"role": "admin"})).status_code == 204
    bobs_key = (await bob_here.make_key(name="robot"))["id"]
    eve_here = await ada.add(eve)
    refused(await eve_here.patch(f"/v1/teams/{team}", {"name": "Eve's"}), 403, "forbidden")
    assert (await eve_here.post(f"/v1/teams/{team}/leave")).status_code == 204
    assert (await ada.post(f"/v1/teams/{team}/transfer", {"user_id": bob.user_id})).status_code == 204
    assert (await bob_here.post(f"/v1/teams/{team}/transfer", {"user_id": ada.user_id})).status_code == 204
    gone = await ada.delete(f"{members}/{bob.user_id}", params={"revoke_keys": "true"})
    assert gone.status_code == 204
    made = await ada.make_key(name="mine")
    for key_id in (made["id"], made["id"], bobs_key):
        assert (await ada.delete(f"/v1/api-keys/{key_id}")).status_code == 204
    eve_here = await ada.add(eve)

    items = [item for item in await log_of(ada) if item["action"] != "invite"]
    added, by_ada = ("add", "success"), {"role": "member", "invited_by": ada.user_id}
    assert lines(items) == [
        ("Ada", "team", team, "create", "success", {}),
        ("Ada", "team", team, "rename", "info", {"old_name": "Old", "new_name": "New"}),
        ("Bob", "member", bob.user_id, *added, {"email": bob.email, **by_ada}),
        ("Ada", "member", bob.user_id, "role_update", "info", {"new_role": "admin"}),
        ("Bob", "api_key", bobs_key, "create", "success", {"name": "robot"}),
        ("Eve", "member", eve.user_id, *added, {"email": eve.email, **by_ada}),
        ("Eve", "member", eve.user_id, "leave", "info", {}),
        ("Ada", "team", team, "transfer", "info", {"new_owner": bob.user_id}),
        ("Bob", "team", team, "transfer", "info", {"new_owner": ada.user_id}),
        ("Ada", "member", bob.user_id, "remove", "warning", {}),
        ("Ada", "api_key", bobs_key, "revoke", "warning", {}),
        ("Ada", "api_key", made["id"], "create", "success", {"name": "mine"}),
        ("Ada", "api_key", made["id"], "revoke", "warning", {}),
        ("Eve", "member", eve.user_id, *added, {"email": eve.email, **by_ada}),
    ]
    assert {item["actor_id"] for item in items} == {ada.user_id, bob.user_id, eve.user_id}
    assert made["key"] not in str(items)
    for_all = [item for item in items if item["scope"] == "team"]
    assert await log_of(eve_here) == for_all
    assert {(item["resource_type"], item["action"]) for item in for_all} == {
        ("team", "create"),
        ("team", "rename"),
        ("api_key", "create"),
        ("api_key", "revoke"),
    }

    sandbox = (await ada.post("/v1/sandboxes")).json()["id"]
    kept = await ada.post("/v1/snapshots", {"sandbox_id": sandbox, "name": "ours"})
    assert kept.status_code == 201, kept.text
    assert (await ada.delete(f"/v1/teams/{team}")).status_code == 204
    end = (await stored(people_database, team))[-3:]
    assert [(e.actor.name, e.resource, e.resource_id, e.action, e.status) for e in end] == [
        ("Ada", "team", team, "delete", "warning"),
        ("Ada", "sandbox", sandbox, "destroy", "warning"),
        ("Ada", "snapshot", "ours", "delete", "warning"),
    ]
    assert end[1].facts == {"cause": "team_deleted"}


async def test_what_admins_do_is_in_the_platforms_log(people: People, people_database: Database):
    root, ada, bob = [await people.sign_up(name=name) for name in ("Root", "Ada", "Bob")]
    await make_admin(people.database_url, root)
    refused(await ada.get("/v1/admin/audit-logs"), 403, "forbidden")
    user, team = f"/v1/admin/users/{ada.user_id}", f"/v1/admin/teams/{ada.team_id}"
    wishes = (
        (f"{user}/active", {"active": False}),
        (f"{user}/active", {"active": True}),
        (f"{user}/admin", {"admin": True, "accept_unverified": True}),
        (f"{user}/admin", {"admin": False}),
        (f"{team}/byoc", {"enabled": True}),
        (f"{team}/limits", {"vcpus": 7}),
    )
    for path, wish in wishes:
        for _ in range(2):
            answer = await root.put(path, wish)
            assert answer.status_code in (200, 204), answer.text
    assert (await root.delete(team)).status_code == 204
    refused(await root.delete(team), 404, "not_found")
    await root.add(bob)
    assert (await bob.delete("/v1/me", {"confirmation": bob.email})).status_code == 204
    email = new_email()
    for _ in range(2):
        await create_admin(people.database_url, email=email, name="Op", password=Secret(PASSWORD))

    items = await log_of(root, "/v1/admin/audit-logs")
    users = (await root.get("/v1/admin/users")).json()["users"]
    operator = next(found["user_id"] for found in users if found["email"] == email)
    ours = [i for i in items if i["resource_id"] in (ada.user_id, ada.team_id, bob.user_id, operator)]
    assert lines(ours) == [
        ("Root", "user", ada.user_id, "deactivate", "warning", {}),
        ("Root", "user", ada.user_id, "activate", "success", {}),
        ("Root", "user", ada.user_id, "grant_admin", "warning", {}),
        ("Root", "user", ada.user_id, "revoke_admin", "warning", {}),
        ("Root", "team", ada.team_id, "set_byoc", "info", {}),
        ("Root", "team", ada.team_id, "set_limits", "info", {"vcpus": 7}),
        ("Root", "team", ada.team_id, "delete", "warning", {}),
        ("Bob", "user", bob.user_id, "delete", "warning", {}),
        ("system", "user", operator, "grant_admin", "warning", {}),
    ]
    assert {item["scope"] for item in items} == {"admin"}
    # What ends with an account and a team is in the logs of those whom it concerns.
    assert lines(await log_of(root))[-1] == ("Bob", "member", bob.user_id, "leave", "info", {})
    for team_id, actor in ((ada.team_id, "Root"), (bob.team_id, "Bob")):
        last = (await stored(people_database, team_id))[-1]
        assert (last.actor.name, last.resource, last.action) == (actor, "team", "delete")
    filtered = await root.get("/v1/admin/audit-logs", params={"action": "grant_admin", "limit": 1})
    assert lines(filtered.json()["items"]) == [lines(ours)[-1]]


async def test_what_was_not_done_is_in_no_log(people: People, people_database: Database):
    ada, bob = await people.sign_up(), await people.sign_up()
    other = (await ada.post("/v1/teams", {"name": "Other"})).json()["id"]
    # Teams end in the order of their ids: the first ends, the second refuses, and all is as before.
    first, second = sorted((ada.team_id, other), key=lambda text: TeamId.parse(text).value)
    await (await ada.at(second)).add(bob)
    logs = (first, second, str(PLATFORM_TEAM))
    before = [await stored(people_database, team_id) for team_id in logs]
    refused(await ada.delete("/v1/me", {"confirmation": ada.email}), 409, "owns_team_with_members")
    assert [await stored(people_database, team_id) for team_id in logs] == before
    assert [entry.action for entry in before[0]] == ["create"]
