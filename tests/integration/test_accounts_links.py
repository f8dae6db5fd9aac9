"""Sign-in links, which the operator makes on the server, and refreshes for one team among several tabs."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import httpx2
import pytest

from wrenn.base.errors import Forbidden, NotFound
from wrenn.base.ids import TeamId
from wrenn.base.secrets import Secret
from wrenn.control.administration import create_sign_in_link, set_password

from .conftest import client, refused, run_sql
from .people import People, Person, cookie_of, make_admin, person_of, with_cookie

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("forget_attempts")]

PATH = "/v1/auth/sign-in-link"


async def link(people: People, person: Person, *, life_s: float = 60) -> str:
    """A token for this person."""
    return (await create_sign_in_link(people.database_url, email=person.email, life_s=life_s)).reveal()


async def show(people: People, token: str, *, replica: int = 1) -> httpx2.Response:
    """Log in with a token."""
    async with client((people.platform, people.second)[replica - 1].url, None) as api:
        return await api.post(PATH, json={"token": token})


async def test_a_link_signs_in_once_without_a_password(people: People):
    ada = await people.sign_up()
    await make_admin(people.database_url, ada)
    token = await link(people, ada)
    answer = await show(people, token)
    signed_in = person_of(people.url, answer)
    assert signed_in.user_id == ada.user_id
    assert answer.json()["is_admin"] is True
    assert answer.headers["cache-control"] == "no-store"
    assert (await signed_in.get("/v1/admin/users")).status_code == 200
    assert (await signed_in.refresh()).status_code == 200
    refused(await show(people, token, replica=2), 404, "not_found")
    entries = (await signed_in.get("/v1/admin/audit-logs?action=sign_in_by_link")).json()["items"]
    assert [entry["resource_id"] for entry in entries].count(ada.user_id) == 1


async def test_of_many_who_show_one_link_at_once_one_gets_in(people: People):
    ada = await people.sign_up()
    token = await link(people, ada)
    answers = await asyncio.gather(*(show(people, token, replica=1 + i % 2) for i in range(8)))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) == 1, statuses
    assert set(statuses) <= {200, 404, 429}


async def test_a_newer_link_voids_the_older_and_other_tokens_are_none(people: People):
    ada = await people.sign_up()
    older, newer = await link(people, ada), await link(people, ada)
    refused(await show(people, older), 404, "not_found")
    for wrong in ("", "x", newer[:-1], newer.replace("wrl_", "wrp_"), f"{newer} ", "wrl_" + "0" * 64):
        refused(await show(people, wrong), 404, "not_found")
    refused(await show(people, "x" * 201), 400, "invalid_request")
    assert (await show(people, newer)).status_code == 200


async def test_a_link_expires_and_ends_with_another_password_and_a_deactivation(people: People):
    ada = await people.sign_up()
    refused(await show(people, await link(people, ada, life_s=0)), 404, "not_found")
    token = await link(people, ada)
    await set_password(people.database_url, email=ada.email, password=Secret("another long password"))
    refused(await show(people, token), 404, "not_found")
    token = await link(people, ada)
    await run_sql(people.database_url, f"UPDATE users SET status = 'disabled' WHERE email = '{ada.email}'")
    refused(await show(people, token), 404, "not_found")
    with pytest.raises(Forbidden, match="deactivated"):
        await link(people, ada)
    with pytest.raises(NotFound, match="no account"):
        await create_sign_in_link(people.database_url, email="nobody@example.com", life_s=60)


async def test_only_the_hash_of_a_link_is_stored(people: People):
    ada = await people.sign_up()
    token = await link(people, ada)
    # Fails unless there is one row.
    await run_sql(
        people.database_url,
        "SELECT 1 / (SELECT count(*) FROM mailed_tokens WHERE purpose = 'sign_in'"
        f" AND token_hash = '{hashlib.sha256(token.encode()).hexdigest()}')",
    )


async def test_guesses_of_links_are_slowed_down(people: People):
    answers = [await show(people, f"wrl_{i:064x}") for i in range(60)]
    refused(answers[0], 404, "not_found")
    refused(answers[-1], 429, "rate_limited")


async def refresh_for(people: People, cookie: str, team_id: str) -> httpx2.Response:
    async with client(people.url, None) as api:
        return await api.post(
            "/v1/auth/refresh", json={"team_id": team_id}, headers={"Cookie": f"wrenn_refresh={cookie}"}
        )


async def test_a_tab_gets_a_token_of_its_team_and_moves_no_other_tab(people: People):
    ada, eve = await people.sign_up(), await people.sign_up()
    made = await ada.post("/v1/teams", {"name": "Second"})
    second = made.json()["id"]
    of_second = await refresh_for(people, ada.cookie, second)
    assert of_second.json()["team_id"] == second
    assert (await person_of(people.url, of_second).get(f"/v1/teams/{second}/members")).status_code == 200
    # Another tab, which names no team, is still in the first one.
    plain = await with_cookie(people.url, "/v1/auth/refresh", cookie_of(of_second))
    assert plain.json()["team_id"] == ada.team_id
    cookie = cookie_of(plain)
    refused(await refresh_for(people, cookie, eve.team_id), 403, "forbidden")
    refused(await refresh_for(people, cookie, "no-team"), 400, "invalid_request")
    refused(await refresh_for(people, cookie, str(TeamId.new())), 404, "not_found")
    # A refusal used nothing up.
    again = await refresh_for(people, cookie, second)
    assert again.status_code == 200
    assert (await replace(ada, token=again.json()["token"]).get("/v1/me")).status_code == 200


async def test_a_refresh_without_a_body_works_as_before(people: People):
    ada = await people.sign_up()
    async with client(people.url, None) as api:
        headers = {"Cookie": f"wrenn_refresh={ada.cookie}", "Content-Type": "application/json"}
        assert (await api.post("/v1/auth/refresh", headers=headers)).status_code == 200
