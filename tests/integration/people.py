"""Users of a control plane: sign up, log in, call with a token; one platform for all tests of a module."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2

from .conftest import Platform, client, run_sql

PASSWORD = "correct horse battery"
_numbers = itertools.count()


def new_email(name: str = "user") -> str:
    """An address that no other test has."""
    return f"{name}{next(_numbers)}@example.com"


@dataclass
class Person:
    """A user with a session."""

    url: str
    email: str
    user_id: str
    team_id: str
    token: str
    cookie: str = field(repr=False, default="")

    async def call(self, method: str, path: str, json: Any = None, **more: Any) -> httpx2.Response:
        """A request with the token."""
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        async with client(self.url, None) as api:
            return await api.request(method, path, json=json, headers=headers, **more)

    async def get(self, path: str, **more: Any) -> httpx2.Response:
        return await self.call("GET", path, **more)

    async def post(self, path: str, json: Any = None) -> httpx2.Response:
        return await self.call("POST", path, {} if json is None else json)

    async def patch(self, path: str, json: Any) -> httpx2.Response:
        return await self.call("PATCH", path, json)

    async def put(self, path: str, json: Any) -> httpx2.Response:
        return await self.call("PUT", path, json)

    async def delete(self, path: str, json: Any = None, **more: Any) -> httpx2.Response:
        return await self.call("DELETE", path, json, **more)

    async def refresh(self, cookie: str | None = None) -> httpx2.Response:
        """With this person's cookie, or another one."""
        return await with_cookie(self.url, "/v1/auth/refresh", cookie or self.cookie)

    async def at(self, team_id: str) -> Person:
        """The same user with a token for another team; the session is for that team then."""
        answer = await self.post("/v1/auth/switch-team", {"team_id": team_id})
        assert answer.status_code == 200, answer.text
        return replace(self, team_id=team_id, token=answer.json()["token"])

    async def make_key(self, **fields: Any) -> dict[str, Any]:
        """An API key of the team."""
        answer = await self.post("/v1/api-keys", fields)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def invite(self, email: str) -> str:
        """The token of an invitation of this address into the team."""
        answer = await self.post(f"/v1/teams/{self.team_id}/members", {"email": email})
        assert answer.status_code == 202, answer.text
        return answer.json()["token"]

    async def add(self, other: Person, role: str = "member") -> Person:
        """Another user into the team, by an invitation; who it is then, with a token for it."""
        answer = await other.post("/v1/invitations/accept", {"token": await self.invite(other.email)})
        assert answer.status_code == 200, answer.text
        if role != "member":
            path = f"/v1/teams/{self.team_id}/members/{other.user_id}"
            assert (await self.patch(path, {"role": role})).status_code == 204
        return await other.at(self.team_id)


async def with_cookie(url: str, path: str, cookie: str, **headers: str) -> httpx2.Response:
    """A request as a page of ours makes it."""
    async with client(url, None) as api:
        return await api.post(path, json={}, headers={"Cookie": f"wrenn_refresh={cookie}", **headers})


def person_of(url: str, answer: httpx2.Response) -> Person:
    """Who an `AuthResponse` says."""
    assert answer.status_code in (200, 201), answer.text
    said = answer.json()
    return Person(url, said["email"], said["user_id"], said["team_id"], said["token"], cookie_of(answer))


def cookie_of(answer: httpx2.Response) -> str:
    """The refresh token that the answer sets, if it does."""
    return answer.cookies.get("wrenn_refresh") or ""


async def sign_up(url: str, email: str | None = None, name: str = "Ada") -> Person:
    """A new user."""
    body = {"email": email or new_email(), "password": PASSWORD, "name": name}
    async with client(url, None) as api:
        return person_of(url, await api.post("/v1/auth/signup", json=body))


async def log_in(url: str, email: str, password: str = PASSWORD, **headers: str) -> httpx2.Response:
    """A login that may fail."""
    async with client(url, None) as api:
        return await api.post("/v1/auth/login", json={"email": email, "password": password}, headers=headers)


async def make_admin(database_url: str, person: Person) -> None:
    """An admin of the platform, as the server's operator makes one."""
    await run_sql(database_url, f"UPDATE users SET is_admin = true WHERE email = '{person.email}'")


@dataclass
class People:
    """A platform of a whole module, with a second replica on the same database."""

    platform: Platform
    second: Platform
    database_url: str

    @property
    def url(self) -> str:
        return self.platform.url

    async def sign_up(self, email: str | None = None, name: str = "Ada") -> Person:
        """A new user."""
        return await sign_up(self.url, email, name)
