"""Nobody is made a member: an invitation is accepted, once, by the user of the address that was invited."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from wrenn.base.ids import TeamId
from wrenn.control.db import Database
from wrenn.control.teams.invitations import INVITATIONS_LIMIT

from .conftest import client, refused, run_sql
from .people import People, Person, make_admin, new_email

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACCEPT = "/v1/invitations/accept"


async def invite(ada: Person, email: str) -> dict[str, Any]:
    answer = await ada.post(f"/v1/teams/{ada.team_id}/members", {"email": email})
    assert answer.status_code == 202, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


async def pending(ada: Person) -> list[str]:
    answer = await ada.get(f"/v1/teams/{ada.team_id}/invitations")
    assert answer.status_code == 200, answer.text
    assert all("token" not in each and "link" not in each for each in answer.json())
    return [each["email"] for each in answer.json()]


async def not_accepted(person: Person, token: str) -> None:
    refused(await person.post(ACCEPT, {"token": token}), 404, "not_found")


async def test_an_invitation_is_the_same_whether_the_address_has_an_account(people: People):
    ada, bob = await people.sign_up(), await people.sign_up()
    known, unknown = await invite(ada, f" {bob.email.upper()} "), await invite(ada, new_email())
    assert known.keys() == unknown.keys()
    assert (known["email"], known["role"], known["inviter_email"]) == (bob.email, "member", ada.email)
    assert known["link"] == f"{people.url}/account/invitation#{known['token']}"
    assert await pending(ada) == [unknown["email"], bob.email]
    refused(await bob.get(f"/v1/teams/{ada.team_id}"), 403, "forbidden")


async def test_it_is_accepted_once_by_the_user_of_its_address(people: People, people_database: Database):
    ada, bob, eve = [await people.sign_up() for _ in range(3)]
    token = (await invite(ada, bob.email))["token"]
    refused(await eve.post(ACCEPT, {"token": token}), 403, "forbidden")
    async with client(people.url, None) as api:
        refused(await api.post(ACCEPT, json={"token": token}), 401, "unauthorized")
    answers = await asyncio.gather(*(bob.post(ACCEPT, {"token": token}) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 404, 404, 404, 404]
    [accepted] = [answer.json() for answer in answers if answer.status_code == 200]
    assert (accepted["id"], accepted["role"]) == (ada.team_id, "member")
    assert await pending(ada) == []
    bob_here = await bob.at(ada.team_id)
    assert [m["email"] for m in (await bob_here.get(f"/v1/teams/{ada.team_id}/members")).json()] == [
        ada.email,
        bob.email,
    ]
    log = (await ada.get("/v1/audit-logs")).json()["items"]
    told = {(each["action"], each["actor_name"]) for each in log if each["resource_type"] == "member"}
    assert told == {("invite", "Ada"), ("add", "Ada")}
    assert token not in str(log)
    kept = await people_database.execute(
        text("SELECT count(*) FROM team_invitations WHERE token_hash LIKE 'wri%'")
    )
    assert kept.scalar_one() == 0


async def test_who_signs_up_later_accepts_then(people: People):
    ada, email = await people.sign_up(), new_email()
    token = await ada.invite(email)
    bob = await people.sign_up(email)
    assert (await bob.post(ACCEPT, {"token": token})).status_code == 200


async def revoked(people: People, ada: Person, invitation: dict[str, Any]) -> None:
    path = f"/v1/teams/{ada.team_id}/invitations/{invitation['id']}"
    for _ in range(2):
        assert (await ada.delete(path)).status_code == 204


async def expired(people: People, ada: Person, invitation: dict[str, Any]) -> None:
    await run_sql(
        people.database_url,
        f"UPDATE team_invitations SET expires_at = now() WHERE email = '{invitation['email']}'",
    )


async def replaced(people: People, ada: Person, invitation: dict[str, Any]) -> None:
    await invite(ada, invitation["email"])
    assert await pending(ada) == [invitation["email"]]
    await revoked(people, ada, (await ada.get(f"/v1/teams/{ada.team_id}/invitations")).json()[0])


async def team_deleted(people: People, ada: Person, invitation: dict[str, Any]) -> None:
    assert (await ada.delete(f"/v1/teams/{ada.team_id}")).status_code == 204


@pytest.mark.parametrize("void", [revoked, expired, replaced, team_deleted], ids=lambda f: f.__name__)
async def test_an_invitation_that_is_void_lets_nobody_in(people: People, void: Any):
    ada, bob = await people.sign_up(), await people.sign_up()
    invitation = await invite(ada, bob.email)
    await void(people, ada, invitation)
    await not_accepted(bob, invitation["token"])
    if void is not team_deleted:
        assert await pending(ada) == []


async def removed(people: People, ada: Person, bob: Person) -> None:
    assert (await ada.delete(f"/v1/teams/{ada.team_id}/members/{bob.user_id}")).status_code == 204


async def demoted(people: People, ada: Person, bob: Person) -> None:
    path = f"/v1/teams/{ada.team_id}/members/{bob.user_id}"
    assert (await ada.patch(path, {"role": "member"})).status_code == 204


async def deactivated(people: People, ada: Person, bob: Person) -> None:
    root = await people.sign_up()
    await make_admin(people.database_url, root)
    assert (await root.put(f"/v1/admin/users/{bob.user_id}/active", {"active": False})).status_code == 204


@pytest.mark.parametrize("lose", [removed, demoted, deactivated], ids=lambda f: f.__name__)
async def test_invitations_end_with_the_right_to_invite(people: People, lose: Any):
    ada, bob, friend = [await people.sign_up() for _ in range(3)]
    bob_here = await ada.add(bob, "admin")
    token = (await invite(bob_here, friend.email))["token"]
    await lose(people, ada, bob)
    await not_accepted(friend, token)
    assert await pending(ada) == []


async def test_only_admins_of_the_team_invite_and_see_invitations(people: People):
    ada, eve = await people.sign_up(), await people.sign_up()
    bob_here = await ada.add(await people.sign_up())
    invitation = await invite(ada, new_email())
    path = f"/v1/teams/{ada.team_id}"
    for other in (bob_here, eve):
        refused(await other.post(f"{path}/members", {"email": new_email()}), 403, "forbidden")
        refused(await other.get(f"{path}/invitations"), 403, "forbidden")
        refused(await other.delete(f"{path}/invitations/{invitation['id']}"), 403, "forbidden")
    other_team = f"/v1/teams/{eve.team_id}/invitations/{invitation['id']}"
    assert (await eve.delete(other_team)).status_code == 204
    assert await pending(ada) == [invitation["email"]], "of another team nothing is revoked"


async def test_a_token_of_another_form_is_no_invitation(people: People):
    ada = await people.sign_up()
    for token in ("", "wri_", "wri_" + "0" * 64, "x" * 200, "wri_" + "g" * 64):
        await not_accepted(ada, token)
    refused(await ada.post(ACCEPT, {"token": "x" * 201}), 400, "invalid_request")


async def test_invitations_of_one_user_are_slowed_down_over_all_replicas(people: People):
    ada = await people.sign_up()
    path = f"/v1/teams/{ada.team_id}/members"
    assert (await ada.post(path, {"email": new_email()})).status_code == 202
    await run_sql(
        people.database_url, f"UPDATE attempts SET count = 60 WHERE subject = 'invite:{ada.user_id}'"
    )
    assert (await ada.post(path, {"email": new_email()})).status_code == 202
    ada.url = people.second.url
    refused(await ada.post(path, {"email": new_email()}), 429, "rate_limited")


async def test_the_limit_counts_what_can_be_accepted(people: People, people_database: Database):
    ada = await people.sign_up()
    await invite(ada, "first@example.com")
    others = text(
        "INSERT INTO team_invitations (id, team_id, email, token_hash, invited_by, expires_at)"
        " SELECT gen_random_uuid(), team_id, 'u' || n || '@example.com', :prefix || n, invited_by, expires_at"
        " FROM team_invitations, generate_series(2, :limit) AS n WHERE team_id = :team"
    )
    values = {"prefix": new_email(), "limit": INVITATIONS_LIMIT, "team": TeamId.parse(ada.team_id).value}
    await people_database.execute(others, values)
    body = {"email": new_email()}
    refused(await ada.post(f"/v1/teams/{ada.team_id}/members", body), 409, "conflict")
    await invite(ada, "first@example.com")
    expired = text("UPDATE team_invitations SET expires_at = now() WHERE team_id = :team AND email LIKE 'u%'")
    await people_database.execute(expired, {"team": values["team"]})
    assert await pending(ada) == ["first@example.com"]
    await invite(ada, body["email"])
