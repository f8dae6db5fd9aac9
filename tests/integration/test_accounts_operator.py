"""What the operator does to accounts on the server, past the API."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wrenn.base.errors import InvalidRequest, NotFound
from wrenn.base.secrets import Secret
from wrenn.control.administration import create_admin, set_password
from wrenn.control.teams import EndedAccess

from .conftest import client, refused, run_sql
from .people import PASSWORD, People, Person, log_in, new_email

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_forgotten_password_is_replaced_and_gives_no_right(people: People) -> None:
    ada = await people.sign_up()
    await set_password(people.database_url, email=ada.email, password=Secret("another long password"))
    assert (await ada.get("/v1/me")).status_code == 401, "her sessions end"
    for password, status in ((PASSWORD, 401), ("another long password", 200)):
        login = {"email": ada.email, "password": password}
        answer = await people.platform.api.post("/v1/auth/login", json=login)
        assert answer.status_code == status, answer.text
    again = replace(ada, token=answer.json()["token"])
    assert (await again.get("/v1/me")).status_code == 200
    assert (await again.get("/v1/admin/users")).status_code == 403, "she is no admin"


async def test_only_an_account_that_exists_gets_a_password(people: People) -> None:
    with pytest.raises(NotFound, match="no account with the address"):
        await set_password(people.database_url, email=new_email(), password=Secret("another long password"))
    with pytest.raises(InvalidRequest, match="password"):
        await set_password(people.database_url, email=new_email(), password=Secret("short"))


NEW_PASSWORD = "another long password"


async def squat(people: People) -> tuple[Person, str]:
    """An account, with a link to a provider, that somebody made who does not own the address; and its API key."""
    squatter = await people.sign_up()
    key = (await squatter.make_key())["key"]
    await squatter.invite(new_email())
    await run_sql(
        people.database_url,
        "INSERT INTO oauth_providers (provider, provider_id, user_id, email)"
        f" SELECT 'corp', email, id, email FROM users WHERE email = '{squatter.email}'",
    )
    return squatter, key


async def access(people: People, email: str, key: str) -> tuple[int, list[str]]:
    """The status of a request with the key, and the providers that are linked."""
    owner = (await log_in(people.url, email, NEW_PASSWORD)).json()
    async with client(people.url, None) as api:
        limits = await api.get("/v1/limits", headers={"X-API-Key": key})
        me = await api.get("/v1/me", headers={"Authorization": f"Bearer {owner['token']}"})
    return limits.status_code, me.json()["providers"]


async def test_an_account_that_somebody_else_may_have_made_has_no_other_way_in_when_it_becomes_an_admin(
    people: People,
) -> None:
    squatter, key = await squat(people)
    made = await create_admin(
        people.database_url, email=squatter.email, name="Op", password=Secret(NEW_PASSWORD)
    )
    assert (made.is_new, made.ended) == (False, EndedAccess(keys=1, links=1, invitations=1))
    assert await access(people, squatter.email, key) == (401, [])


async def test_another_password_ends_what_an_account_gave_before_unless_the_address_is_verified(
    people: People,
) -> None:
    async def replaced(*, is_verified: bool, revoke_keys: bool | None = None) -> tuple[int, list[str]]:
        person, key = await squat(people)
        if is_verified:
            verify = f"UPDATE users SET email_verified_at = now() WHERE email = '{person.email}'"
            await run_sql(people.database_url, verify)
        await set_password(
            people.database_url, email=person.email, password=Secret(NEW_PASSWORD), revoke_keys=revoke_keys
        )
        return await access(people, person.email, key)

    assert await replaced(is_verified=False) == (401, [])
    assert await replaced(is_verified=True) == (200, ["corp"])
    assert await replaced(is_verified=True, revoke_keys=True) == (401, [])
    assert await replaced(is_verified=False, revoke_keys=False) == (200, ["corp"])


async def test_nobody_signs_up_with_an_address_of_the_operator(people: People) -> None:
    for email in ("admin@localhost", "Else@LOCALHOST", "x@localhost."):
        body = {"email": email, "password": PASSWORD, "name": "Eve"}
        async with client(people.url, None) as api:
            message = refused(await api.post("/v1/auth/signup", json=body), 400, "invalid_request")
        assert "localhost" in message
