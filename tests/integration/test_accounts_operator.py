"""What the operator does to accounts on the server, past the API."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wrenn.base.errors import InvalidRequest, NotFound
from wrenn.base.secrets import Secret
from wrenn.control.administration import set_password

from .people import PASSWORD, People, new_email

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
