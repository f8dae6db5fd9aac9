"""Who is signed in visits the ports of the team's sandboxes with a cookie; no page of another sandbox does it for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import httpx2
import pytest

from wrenn.control.settings import Settings
from wrenn.testing.agent_host import AgentHost

from .conftest import (
    DEADLINE_S,
    Platform,
    client,
    environment_of,
    make_team,
    refused,
    running_platform,
)
from .guest_programs import OK, answering, program
from .people import PASSWORD, new_email

DOMAIN = "wrenn.test"
HERE = {"Host": DOMAIN}


@pytest.fixture
async def platform(data_dir: Path, pki: Path, database_url: str, host: AgentHost) -> AsyncIterator[Platform]:
    """As behind a proxy with TLS, with the API at the domain below which the ports are."""
    told = {"WRENN_PUBLIC_URL": f"https://{DOMAIN}", "WRENN_DOMAIN": DOMAIN}
    settings = Settings.from_environment(environment_of(data_dir, database_url) | told)
    key = await make_team(database_url, "ada")
    async with running_platform(settings, host, key) as platform:
        yield platform


@dataclass
class Browser:
    """One person's, with a sandbox of its team."""

    http: httpx2.AsyncClient
    token: str
    cookies: SimpleCookie
    sandbox_id: str = ""

    @property
    def visit_cookie(self) -> str:
        return f"wrenn_visit={self.cookies['wrenn_visit'].value}"

    async def visit(self, port: int, cookie: str, **headers: str) -> httpx2.Response:
        at = {"Host": f"{port}-{self.sandbox_id}.{DOMAIN}", "Cookie": cookie}
        return await self.http.get("/", headers=at | {k.replace("_", "-"): v for k, v in headers.items()})


def cookies_in(answer: httpx2.Response) -> SimpleCookie:
    found = SimpleCookie()
    for said in answer.headers.get_list("set-cookie"):
        found.load(said)
    return found


async def sign_up(http: httpx2.AsyncClient, headers: Mapping[str, str] = HERE) -> Browser:
    body = {"email": new_email(), "password": PASSWORD, "name": "Ada"}
    answer = await http.post("/v1/auth/signup", json=body, headers=dict(headers))
    assert answer.status_code == 201, answer.text
    return Browser(http, answer.json()["token"], cookies_in(answer))


async def with_sandbox(http: httpx2.AsyncClient) -> Browser:
    browser = await sign_up(http)
    bearer = {"Authorization": f"Bearer {browser.token}", **HERE}
    browser.sandbox_id = (await http.post("/v1/sandboxes", json={}, headers=bearer)).json()["id"]
    return browser


async def test_the_cookie_is_for_visits_below_the_domain(platform: Platform):
    async with client(platform.url, None) as http:
        said: Any = (await sign_up(http)).cookies["wrenn_visit"]
        assert (said["domain"], said["path"], said["secure"], said["httponly"]) == (DOMAIN, "/", True, True)
        assert said["samesite"] == "lax"
        # A browser would not take it from elsewhere.
        assert "wrenn_visit" not in (await sign_up(http, {"Host": "other.test"})).cookies
        assert "wrenn_visit" not in (await sign_up(http, {"Host": f"not{DOMAIN}"})).cookies
        assert "wrenn_visit" in (await sign_up(http, {"Host": f"api.{DOMAIN}:443"})).cookies


async def test_who_is_signed_in_visits_the_ports_of_the_team(platform: Platform, subtests: pytest.Subtests):
    seen: list[list[bytes]] = []
    async with program(answering(OK, seen)) as port, client(platform.url, None) as http:
        ada, eve = await with_sandbox(http), await with_sandbox(http)
        own, host = ada.visit_cookie, f"{port}-{ada.sandbox_id}.{DOMAIN}"
        neighbour = f"https://{port}-{eve.sandbox_id}.{DOMAIN}"
        cases: list[tuple[str, str, dict[str, str], int]] = [
            (
                "typed into the address bar",
                own,
                {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate"},
                200,
            ),
            ("a page of its own", own, {"Sec_Fetch_Site": "same-origin", "Origin": f"https://{host}"}, 200),
            (
                "a link of a neighbour",
                own,
                {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "navigate"},
                200,
            ),
            ("a picture in a neighbour", own, {"Sec_Fetch_Site": "same-site"}, 401),
            ("a script of a neighbour", own, {"Origin": neighbour}, 401),
            ("hidden by a neighbour's cookie", f"wrenn_visit=x; {own}", {}, 401),
            (
                "framed by a neighbour",
                own,
                {
                    "Sec_Fetch_Site": "same-site",
                    "Sec_Fetch_Mode": "navigate",
                    "Sec_Fetch_Dest": "iframe",
                },
                401,
            ),
            ("another team's person", eve.visit_cookie, {}, 401),
            ("the token of the API", f"wrenn_visit={ada.token}", {}, 401),
            ("nonsense", "wrenn_visit=x.y.z", {}, 401),
            ("nobody", "a=1", {}, 401),
        ]
        for name, cookie, headers, status in cases:
            with subtests.test(name):
                answer = await ada.visit(port, f"a=1; {cookie}", **headers)
                if status == 200:
                    assert answer.text == "ok"
                    assert b"cookie: a=1" in [line.lower() for line in seen.pop()]
                else:
                    refused(answer, status, "unauthorized")
                    assert not seen


async def test_the_cookie_is_good_for_nothing_else(platform: Platform):
    async with client(platform.url, None) as http:
        ada = await with_sandbox(http)
        text = ada.cookies["wrenn_visit"].value
        for headers in ({"Authorization": f"Bearer {text}"}, {"Cookie": ada.visit_cookie}):
            refused(await http.get("/v1/sandboxes", headers={**HERE, **headers}), 401, "unauthorized")


async def test_it_ends_with_the_session(platform: Platform):
    async with program(answering(OK)) as port, client(platform.url, None) as http:
        ada = await with_sandbox(http)
        assert (await ada.visit(port, ada.visit_cookie)).text == "ok"
        bearer = {"Authorization": f"Bearer {ada.token}", **HERE}
        out = await http.post("/v1/auth/logout", headers=bearer)
        assert cookies_in(out)["wrenn_visit"]["max-age"] == "0"
        async with asyncio.timeout(DEADLINE_S):
            while (await ada.visit(port, ada.visit_cookie)).status_code != 401:
                await asyncio.sleep(0.1)
