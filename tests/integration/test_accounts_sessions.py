"""Sign-up, login, refresh, logout, password, own account: over two replicas on one database."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path
from uuid import UUID

import bcrypt
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from sqlalchemy import func, select, text

from wrenn.base.secrets import Secret
from wrenn.control.auth import ensure_secret
from wrenn.control.db import Database
from wrenn.control.identity import sessions, teams, users
from wrenn.control.users.passwords import Passwords

from .conftest import client, refused, run_sql
from .people import (
    PASSWORD,
    People,
    cookie_of,
    log_in,
    make_admin,
    new_email,
    person_of,
    with_cookie,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("forget_attempts")]


async def test_a_sign_up_makes_an_account_with_a_team_of_its_own(people: People):
    email = new_email("Grace")
    async with client(people.url, None) as api:
        body = {"email": f"  {email} ", "password": PASSWORD, "name": " Grace "}
        answer = await api.post("/v1/auth/signup", json=body)
        assert answer.status_code == 201
        said = answer.json()
        assert (said["email"], said["name"], said["role"]) == (email.lower(), "Grace", "owner")
        assert said["is_admin"] is False
        again = await api.post("/v1/auth/signup", json=body)
        refused(again, 409, "email_taken")
    grace = person_of(people.url, answer)
    [team] = (await grace.get("/v1/teams")).json()
    assert (team["name"], team["role"], team["id"]) == ("Grace's Team", "owner", said["team_id"])
    me = (await grace.get("/v1/me")).json()
    assert (me["has_password"], me["providers"]) == (True, [])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"email": "no-at", "password": PASSWORD, "name": "A"}, "email"),
        ({"email": "a b@c", "password": PASSWORD, "name": "A"}, "email"),
        ({"email": "a\x00@c", "password": PASSWORD, "name": "A"}, "email"),
        ({"email": "@" * 3, "password": PASSWORD, "name": "A"}, "email"),
        ({"email": f"{'a' * 300}@c", "password": PASSWORD, "name": "A"}, "email"),
        ({"email": "a@b.c", "password": "short", "name": "A"}, "password"),
        ({"email": "a@b.c", "password": "x" * 1025, "name": "A"}, "password"),
        ({"email": "a@b.c", "password": "\ud800 is no text", "name": "A"}, "password"),
        ({"email": "a@b.c", "password": PASSWORD, "name": "  "}, "name"),
        ({"email": "a@b.c", "password": PASSWORD, "name": "é" * 51}, "name"),
        ({"email": "a@b.c", "password": PASSWORD, "name": "two\nlines"}, "name"),
        ({"email": "a@b.c", "password": PASSWORD}, "name"),
    ],
)
async def test_a_bad_sign_up_names_the_field(people: People, body: dict[str, str], field: str):
    async with client(people.url, None) as api:
        answer = await api.post(
            "/v1/auth/signup", content=json.dumps(body), headers={"Content-Type": "application/json"}
        )
    assert field in refused(answer, 400, "invalid_request")


async def test_of_fifty_sign_ups_at_once_one_makes_an_account(people: People, people_database: Database):
    email = new_email()
    body = {"email": email, "password": PASSWORD, "name": "Crowd"}
    async with client(people.url, None) as first, client(people.second.url, None) as second:
        answers = await asyncio.gather(
            *((first, second)[i % 2].post("/v1/auth/signup", json=body) for i in range(50))
        )
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(201) == 1
    assert set(statuses) <= {201, 409, 429}
    found = select(func.count()).select_from(users).where(users.c.email == email)
    assert (await people_database.execute(found)).scalar_one() == 1
    theirs = select(func.count()).select_from(teams).where(teams.c.name == "Crowd's Team")
    assert (await people_database.execute(theirs)).scalar_one() == 1


async def test_a_login_refuses_alike_whether_or_not_there_is_an_account(people: People):
    ada = await people.sign_up()
    wrong = await log_in(people.url, ada.email, "not the password")
    unknown = await log_in(people.url, new_email())
    assert refused(wrong, 401, "unauthorized") == refused(unknown, 401, "unauthorized")
    right = await log_in(people.url, f" {ada.email.upper()} ")
    assert person_of(people.url, right).user_id == ada.user_id


async def test_a_password_is_hashed_as_long_for_nobody_as_for_somebody():
    passwords = Passwords()
    stored = await passwords.hash(Secret(PASSWORD))

    async def took(against: str | None) -> float:
        started = time.process_time()
        assert not await passwords.verify(Secret("another one"), against)
        return time.process_time() - started

    somebody = [await took(stored) for _ in range(5)]
    nobody = [await took(None) for _ in range(5)]
    # CPU time of all threads: the time by the clock is also that of other programs. A look-up alone takes a thousandth of it.
    assert min(nobody) > min(somebody) / 3
    passwords.close()


async def test_a_password_is_stored_as_argon2_and_a_bcrypt_hash_is_replaced_at_login(
    people: People, people_database: Database
):
    ada = await people.sign_up()
    find = select(users.c.password_hash).where(users.c.email == ada.email)
    assert (await people_database.execute(find)).scalar_one().startswith("$argon2id$")
    old = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    await run_sql(
        people.database_url, f"UPDATE users SET password_hash = '{old}' WHERE email = '{ada.email}'"
    )
    assert (await log_in(people.url, ada.email, "wrong password")).status_code == 401
    assert (await people_database.execute(find)).scalar_one() == old
    assert (await log_in(people.url, ada.email)).status_code == 200
    assert (await people_database.execute(find)).scalar_one().startswith("$argon2id$")
    assert (await log_in(people.url, ada.email)).status_code == 200


async def test_many_wrong_passwords_are_slowed_down_on_all_replicas(people: People):
    ada = await people.sign_up()
    statuses = [
        (await log_in((people.url, people.second.url)[i % 2], ada.email, f"wrong {i}")).status_code
        for i in range(14)
    ]
    assert statuses[:10] == [401] * 10
    assert 429 in statuses[10:]
    # At once many are no better than one after the other.
    at_once = await asyncio.gather(*(log_in(people.url, ada.email) for _ in range(8)))
    assert sum(answer.status_code != 429 for answer in at_once) <= 1
    slow = [answer for answer in at_once if answer.status_code == 429]
    assert int(slow[0].headers["retry-after"]) >= 1
    # Nobody else is.
    eve = await people.sign_up()
    assert (await log_in(people.url, eve.email)).status_code == 200


async def test_a_good_login_forgets_the_wrong_ones(people: People):
    ada = await people.sign_up()
    for _ in range(2):
        for _ in range(8):
            assert (await log_in(people.url, ada.email, "wrong one")).status_code == 401
        assert (await log_in(people.url, ada.email)).status_code == 200


async def test_a_refresh_gives_a_new_token_and_a_used_one_ends_the_session(people: People):
    ada = await people.sign_up()
    first = person_of(people.url, await ada.refresh())
    assert first.cookie != ada.cookie
    second = person_of(people.second.url, await first.refresh())
    assert (await second.get("/v1/me")).status_code == 200
    # The thief, or the victim of one: nobody can tell. A later token than this one was used.
    refused(await ada.refresh(), 401, "unauthorized")
    refused(await second.refresh(), 401, "unauthorized")
    refused(await second.get("/v1/me"), 401, "unauthorized")
    assert (await log_in(people.url, ada.email)).status_code == 200


async def test_a_browser_that_lost_the_answer_to_a_refresh_stays_signed_in(
    people: People, people_database: Database
):
    ada = await people.sign_up()
    lost = await ada.refresh()
    again = await with_cookie(people.second.url, "/v1/auth/refresh", ada.cookie)
    assert cookie_of(again) == cookie_of(lost)
    following = person_of(people.url, again)
    assert (await following.get("/v1/me")).status_code == 200
    # That it was asked again does not prolong the time for it.
    await people_database.execute(
        text("UPDATE sessions SET refreshed_at = refreshed_at - interval '11 seconds' WHERE id = :id"),
        {"id": UUID(ada.cookie.split(".")[0].removeprefix("wrr_"))},
    )
    refused(await ada.refresh(), 401, "unauthorized")
    refused(await following.get("/v1/me"), 401, "unauthorized")


async def test_refreshes_at_once_with_one_token_get_the_same_next_token(people: People):
    ada = await people.sign_up()
    answers = await asyncio.gather(*(ada.refresh() for _ in range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6
    assert len({cookie_of(answer) for answer in answers}) == 1
    assert (await ada.refresh(cookie_of(answers[0]))).status_code == 200


async def test_a_forged_refresh_token_ends_nobodys_session(people: People):
    ada = await people.sign_up()
    session, family, _ = ada.cookie.split(".")
    for forged in (f"{session}.{'0' * 32}.{'0' * 64}", "wrr_x", f"{ada.cookie}0", family):
        refused(await ada.refresh(forged), 401, "unauthorized")
    assert (await ada.refresh()).status_code == 200


async def test_the_cookie_is_for_our_pages_and_for_nothing_else(people: People):
    ada = await people.sign_up()
    answer = await log_in(people.url, ada.email)
    said = answer.headers["set-cookie"]
    for part in ("HttpOnly", "SameSite=lax", "Path=/v1/auth", "Max-Age=2592000"):
        assert part.lower() in said.lower()
    assert "secure" not in said.lower()  # there is no TLS here
    cookie = cookie_of(answer)
    host = people.url.removeprefix("http://")
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}):
        refused(await with_cookie(people.url, "/v1/auth/refresh", cookie, **headers), 403, "forbidden")
        refused(await with_cookie(people.url, "/v1/auth/logout", cookie, **headers), 403, "forbidden")
    async with client(people.url, None) as api:
        form = await api.post(
            "/v1/auth/refresh", data={"a": "b"}, headers={"Cookie": f"wrenn_refresh={cookie}"}
        )
        refused(form, 403, "forbidden")
        refused(await api.get("/v1/me", headers={"Cookie": f"wrenn_refresh={cookie}"}), 401, "unauthorized")
        refused(await api.post("/v1/auth/refresh", json={}), 401, "unauthorized")
    own = await with_cookie(people.url, "/v1/auth/refresh", cookie, Origin=f"http://{host}")
    assert own.status_code == 200


async def test_a_logout_ends_the_session_on_all_replicas(people: People):
    ada = await people.sign_up()
    assert (await ada.post("/v1/auth/logout")).status_code == 204
    ada.url = people.second.url
    refused(await ada.get("/v1/me"), 401, "unauthorized")
    refused(await ada.get("/v1/sandboxes"), 401, "unauthorized")
    refused(await ada.refresh(), 401, "unauthorized")
    eve = await people.sign_up()
    out = await with_cookie(people.url, "/v1/auth/logout", eve.cookie)
    assert out.status_code == 204
    assert 'wrenn_refresh=""' in out.headers["set-cookie"]
    refused(await eve.get("/v1/me"), 401, "unauthorized")
    async with client(people.url, None) as api:
        refused(await api.post("/v1/auth/logout", json={}), 401, "unauthorized")


async def test_a_token_that_we_did_not_sign_is_refused(people: People, data_dir: Path):
    ada = await people.sign_up()
    head, body, signature = ada.token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    assert claims["exp"] - claims["iat"] == 900
    assert {"sub", "team_id", "role", "email", "name", "sid"} < claims.keys()
    assert "is_admin" not in claims
    key = OctKey.import_key(ensure_secret(data_dir).reveal())

    def signed(alg: str, **changes: object) -> str:
        return jwt.encode({"alg": alg}, {**claims, **changes}, key, algorithms=[alg])

    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    other = jwt.encode({"alg": "HS256"}, claims, OctKey.import_key("x" * 40))
    bad = [
        f"{none}.{body}.", f"{head}.{body}.", f"{head}.{body}.{signature[:-4]}AAAA", other, "x", "a.b.c", "..",
        signed("HS384"), signed("HS512"), signed("HS256", exp=int(time.time()) - 1), signed("HS256", exp="x"),
        signed("HS256", typ="host"), signed("HS256", sub="usr-x"), signed("HS256", sid=7),
        signed("HS256", sid=f"ses-{'0' * 25}"), signed("HS256", exp=None),
    ]  # fmt: skip
    good = ada.token
    for token in bad:
        ada.token = token
        refused(await ada.get("/v1/me"), 401, "unauthorized")
        refused(await ada.get("/v1/sandboxes"), 401, "unauthorized")
    ada.token = signed("HS256", role="owner", is_admin=True)  # only the ids are believed
    refused(await ada.get("/v1/admin/users"), 403, "forbidden")
    ada.token = good
    assert (await ada.get("/v1/me")).status_code == 200


async def test_a_new_password_ends_all_other_sessions(people: People):
    ada = await people.sign_up()
    other = person_of(people.url, await log_in(people.url, ada.email))
    wrong = {"current_password": "not it at all", "new_password": "another password"}
    refused(await ada.post("/v1/me/password", wrong), 401, "wrong_password")
    right = {"current_password": PASSWORD, "new_password": "another password"}
    assert (await ada.post("/v1/me/password", right)).status_code == 204
    assert (await ada.get("/v1/me")).status_code == 200
    refused(await other.get("/v1/me"), 401, "unauthorized")
    refused(await other.refresh(), 401, "unauthorized")
    refused(await log_in(people.url, ada.email), 401, "unauthorized")
    assert (await log_in(people.url, ada.email, "another password")).status_code == 200


async def test_a_new_name_is_in_the_token(people: People):
    ada = await people.sign_up()
    answer = await ada.patch("/v1/me", {"name": "Countess"})
    assert answer.json()["name"] == "Countess"
    ada.token = answer.json()["token"]
    assert (await ada.get("/v1/me")).json()["name"] == "Countess"
    refused(await ada.patch("/v1/me", {"name": ""}), 400, "invalid_request")


async def test_an_account_ends_with_its_own_teams_and_leaves_nothing_personal(
    people: People, people_database: Database
):
    ada, bob = await people.sign_up(), await people.sign_up()
    refused(await ada.delete("/v1/me", {"confirmation": "yes"}), 400, "invalid_request")
    key = (await ada.make_key())["key"]
    await ada.add(bob)
    refused(await ada.delete("/v1/me", {"confirmation": ada.email}), 409, "owns_team_with_members")
    assert (await ada.delete(f"/v1/teams/{ada.team_id}/members/{bob.user_id}")).status_code == 204
    assert (await ada.delete("/v1/me", {"confirmation": ada.email})).status_code == 204
    refused(await ada.get("/v1/me"), 401, "unauthorized")
    refused(await log_in(people.url, ada.email), 401, "unauthorized")
    async with client(people.second.url, Secret(key)) as api:
        refused(await api.get("/v1/sandboxes"), 401, "unauthorized")
    rows = (await people_database.execute(select(users).where(users.c.status == "deleted"))).all()
    assert [row for row in rows if ada.email in map(str, row)] == []
    # The address is free again.
    assert (await people.sign_up(ada.email)).user_id != ada.user_id


async def test_a_deactivated_user_is_out_at_once_with_all_keys(people: People):
    root, ada = await people.sign_up(), await people.sign_up()
    await make_admin(people.database_url, root)
    key = Secret((await ada.make_key())["key"])
    path = f"/v1/admin/users/{ada.user_id}/active"
    assert (await root.put(path, {"active": False})).status_code == 204
    ada.url = people.second.url
    refused(await ada.get("/v1/me"), 401, "unauthorized")
    refused(await ada.get("/v1/sandboxes"), 401, "unauthorized")
    refused(await ada.refresh(), 401, "unauthorized")
    refused(await log_in(people.url, ada.email), 403, "account_disabled")
    refused(await log_in(people.url, ada.email, "wrong password"), 401, "unauthorized")
    async with client(people.second.url, key) as api:
        refused(await api.get("/v1/sandboxes"), 401, "unauthorized")
        assert (await root.put(path, {"active": True})).status_code == 204
        assert (await api.get("/v1/sandboxes")).status_code == 200
    assert (await log_in(people.url, ada.email)).status_code == 200


async def test_a_user_without_a_team_gets_an_error(people: People):
    ada = await people.sign_up()
    assert (await ada.delete(f"/v1/teams/{ada.team_id}")).status_code == 204
    refused(await log_in(people.url, ada.email), 403, "no_team")
    refused(await ada.refresh(), 403, "no_team")
    refused(await ada.get("/v1/sandboxes"), 403, "forbidden")
    # The session lasts, and a team can be made with it.
    made = await ada.post("/v1/teams", {"name": "Another"})
    assert made.status_code == 201
    back = await ada.at(made.json()["id"])
    assert (await back.get("/v1/sandboxes")).json() == []
    assert (await log_in(people.url, ada.email)).json()["team_id"] == made.json()["id"]


async def test_only_hashes_of_refresh_tokens_are_stored(people: People, people_database: Database):
    ada = await people.sign_up()
    rows = (await people_database.execute(select(sessions))).all()
    stored = " ".join(str(value) for row in rows for value in row)
    _, family, once = ada.cookie.split(".")
    assert family not in stored
    assert once not in stored


async def test_the_clients_address_is_not_what_the_client_says(people: People):
    """Nobody is a trusted proxy here, so the header changes nothing."""
    await run_sql(
        people.database_url,
        "INSERT INTO attempts (subject, count, blocked_until) VALUES"
        " ('address:127.0.0.1', 60, now() + interval '60 s') ON CONFLICT (subject)"
        " DO UPDATE SET blocked_until = excluded.blocked_until",
    )
    answer = await log_in(people.url, new_email(), **{"X-Forwarded-For": "203.0.113.9"})
    refused(answer, 429, "rate_limited")
    assert int(answer.headers["retry-after"]) > 30
