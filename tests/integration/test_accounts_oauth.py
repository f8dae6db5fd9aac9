"""Sign-in through a real OpenID Connect provider and one shaped like GitHub, both in a process of their own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import pytest_asyncio
from sqlalchemy import func, select

from wrenn.control.db import Database
from wrenn.control.identity import users
from wrenn.control.settings import Settings
from wrenn.testing.agent_host import agent_host
from wrenn.testing.server import free_port

from .conftest import (
    DEADLINE_S,
    Platform,
    client,
    environment_of,
    make_team,
    own_database,
    refused,
    run_sql,
    running_platform,
)
from .people import Person, log_in, new_email, person_of, sign_up

pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLIC = "https://wrenn.example/api"
DASHBOARD = "https://dash.example"
PROVIDERS = ("corp", "github")


@dataclass
class Place:
    """The platform and its provider."""

    platform: Platform
    provider: str
    database: Database

    @property
    def url(self) -> str:
        return self.platform.url

    async def user(self, **fields: object) -> None:
        """Who signs in at the provider from now on."""
        async with client(self.provider, None) as api:
            assert (await api.post("/test/user", json=fields)).status_code == 204

    async def switch(self, **fields: object) -> None:
        """How the provider misbehaves from now on."""
        async with client(self.provider, None) as api:
            assert (await api.post("/test/switch", json=fields)).status_code == 204


@dataclass
class Browser:
    """Goes where it is sent, with the cookies that it was given."""

    place: Place
    prefix: str = "/v1/auth/oauth"
    state_cookie: str = ""

    async def begin(self, provider: str) -> str:
        """To the provider's address."""
        async with client(self.place.url, None) as api:
            answer = await api.get(f"{self.prefix}/{provider}")
        assert answer.status_code == 302, answer.text
        self.state_cookie = answer.cookies["__Host-oauth_state"]
        return answer.headers["location"]

    async def at_provider(self, url: str) -> str:
        """From the provider's address back to ours."""
        async with client(self.place.provider, None) as api:
            answer = await api.get(url)
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]

    async def come_back(self, url: str, cookie: str | None = None) -> httpx2.Response:
        """Ours: the proxy in front takes `/api` away."""
        assert url.startswith(PUBLIC)
        shown = self.state_cookie if cookie is None else cookie
        async with client(self.place.url, None) as api:
            return await api.get(
                url.removeprefix(PUBLIC), headers={"Cookie": f"__Host-oauth_state={shown}"} if shown else {}
            )

    async def sign_in(self, provider: str) -> httpx2.Response:
        """All the way."""
        return await self.come_back(await self.at_provider(await self.begin(provider)))


def said(answer: httpx2.Response) -> str:
    """The error in the address that the browser goes on to; empty: none."""
    assert answer.status_code == 302, answer.text
    location = urlsplit(answer.headers["location"])
    assert f"{location.scheme}://{location.netloc}" == DASHBOARD
    return parse_qs(location.query).get("error", [""])[0]


async def person(place: Place, answer: httpx2.Response) -> Person:
    """Who is signed in now."""
    assert said(answer) == ""
    assert "?" not in answer.headers["location"], "no secret in an address"
    set_cookie = next(
        c for c in answer.headers.get_list("set-cookie") if c.startswith("__Host-wrenn_refresh")
    )
    assert "; Path=/;" in set_cookie
    assert "Secure" in set_cookie
    assert "Domain" not in set_cookie
    cookie = set_cookie.partition("=")[2].partition(";")[0]
    async with client(place.url, None) as api:
        refreshed = await api.post(
            "/v1/auth/refresh",
            json={},
            headers={"Cookie": f"__Host-wrenn_refresh={cookie}", "Origin": "https://wrenn.example"},
        )
    return person_of(place.url, refreshed)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(
    data_dir: Path, pki: Path, template_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    port = free_port()
    redirects = ",".join(f"{PUBLIC}/auth/oauth/{name}/callback" for name in PROVIDERS)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("sign_in_provider.py")), str(port), redirects,
        env={**os.environ, "AUTHLIB_INSECURE_TRANSPORT": "1"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    provider = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(2 * DEADLINE_S), client(provider, None) as probe:
            while True:
                try:
                    await probe.get("/jwks")
                    break
                except httpx2.TransportError:
                    assert process.returncode is None, "the provider did not start"
                    await asyncio.sleep(0.05)
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(own_database(template_url))
            boxes = tmp_path_factory.mktemp("host") / "agent"
            host = await stack.enter_async_context(agent_host(boxes))
            environment = environment_of(data_dir, url) | {
                "WRENN_PUBLIC_URL": PUBLIC,
                "OAUTH_REDIRECT_URL": DASHBOARD,
                "WRENN_OIDC_CORP_DISCOVERY_URL": f"{provider}/.well-known/openid-configuration",
                "WRENN_OIDC_CORP_CLIENT_ID": "wrenn",
                "WRENN_OIDC_CORP_CLIENT_SECRET": "provider secret",
                "OAUTH_GITHUB_CLIENT_ID": "wrenn",
                "OAUTH_GITHUB_CLIENT_SECRET": "provider secret",
                "OAUTH_GITHUB_URL": provider,
                "OAUTH_GITHUB_API_URL": f"{provider}/api",
            }
            key = await make_team(url, "ada")
            platform = await stack.enter_async_context(
                running_platform(Settings.from_environment(environment), host, key)
            )
            database = Database(url)
            stack.push_async_callback(database.close)
            yield Place(platform, provider, database)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def well_behaved(place: Place) -> None:
    await place.switch()


@pytest.mark.parametrize("prefix", ["/auth/oauth", "/v1/auth/oauth"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_new_identity_gets_an_account_and_is_known_the_next_time(
    place: Place, provider: str, prefix: str
):
    email, number = new_email("Oauth"), str(abs(hash((provider, prefix))))
    await place.user(sub=number, email=email, email_verified=True, name="Olga")
    first = await person(place, await Browser(place, prefix).sign_in(provider))
    me = (await first.get("/v1/me")).json()
    assert (me["email"], me["name"], me["has_password"], me["providers"]) == (
        email.lower(), "Olga", False, [provider],
    )  # fmt: skip
    assert me["email_verified"] is True
    await place.user(sub=number, email=new_email(), email_verified=True, name="Renamed there")
    again = await person(place, await Browser(place, prefix).sign_in(provider))
    assert again.user_id == first.user_id
    refused(await log_in(place.url, email), 401, "unauthorized")


async def test_the_sign_in_options_are_listed(place: Place):
    async with client(place.url, None) as api:
        assert (await api.get("/v1/auth/oauth")).json() == {
            "providers": ["corp", "github"], "signup_open": True,
        }  # fmt: skip
        for prefix in ("/auth/oauth", "/v1/auth/oauth"):
            for path in ("nobody", "nobody/callback"):
                refused(await api.get(f"{prefix}/{path}"), 404, "provider_not_found")


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_address_that_has_an_account_is_not_linked_but_by_its_user(place: Place, provider: str):
    ada = await sign_up(place.url)
    await place.user(sub=f"77{len(provider)}", email=ada.email, email_verified=True, name="Mallory")
    assert said(await Browser(place).sign_in(provider)) == "email_taken"
    me = (await ada.get("/v1/me")).json()
    assert (me["providers"], me["email_verified"]) == ([], False)
    connect = await ada.get(f"/v1/me/providers/{provider}/connect")
    browser = Browser(place, state_cookie=connect.cookies["__Host-oauth_state"])
    back = await browser.come_back(await browser.at_provider(connect.json()["auth_url"]))
    assert said(back) == ""
    assert "linked=true" in back.headers["location"]
    assert "wrenn_refresh" not in str(back.headers.get_list("set-cookie"))
    me = (await ada.get("/v1/me")).json()
    assert (me["providers"], me["email_verified"]) == ([provider], True)
    assert (await person(place, await Browser(place).sign_in(provider))).user_id == ada.user_id
    # Nobody else can link the same identity.
    eve = await sign_up(place.url)
    connect = await eve.get(f"/v1/me/providers/{provider}/connect")
    browser = Browser(place, state_cookie=connect.cookies["__Host-oauth_state"])
    taken = await browser.come_back(await browser.at_provider(connect.json()["auth_url"]))
    assert said(taken) == "already_linked"
    assert (await ada.delete(f"/v1/me/providers/{provider}")).status_code == 204
    refused(await ada.delete(f"/v1/me/providers/{provider}"), 404, "not_found")


async def test_a_link_is_not_made_for_a_session_that_has_ended(place: Place):
    ada = await sign_up(place.url)
    await place.user(sub="555", email=new_email(), email_verified=True, name="Ada")
    connect = await ada.get("/v1/me/providers/corp/connect")
    browser = Browser(place, state_cookie=connect.cookies["__Host-oauth_state"])
    url = await browser.at_provider(connect.json()["auth_url"])
    assert (await ada.post("/v1/auth/logout")).status_code == 204
    assert said(await browser.come_back(url)) == "unauthorized"


async def test_the_only_way_in_is_not_unlinked_and_a_first_password_is_confirmed(place: Place):
    await place.user(sub="900", email=new_email(), email_verified=True, name="Only")
    only = await person(place, await Browser(place).sign_in("corp"))
    refused(await only.delete("/v1/me/providers/corp"), 400, "last_login_method")
    refused(await only.post("/v1/me/password", {"new_password": "long enough"}), 400, "invalid_request")
    both = {"new_password": "long enough", "confirm_password": "long enough"}
    assert (await only.post("/v1/me/password", both)).status_code == 204
    assert (await only.delete("/v1/me/providers/corp")).status_code == 204
    assert (await log_in(place.url, only.email, "long enough")).status_code == 200


async def test_sign_ins_at_once_make_one_account(place: Place):
    email = new_email("race")
    await place.user(sub="4242", email=email, email_verified=True, name="Racer")
    browsers = [Browser(place) for _ in range(8)]
    urls = [await browser.at_provider(await browser.begin("corp")) for browser in browsers]
    answers = await asyncio.gather(
        *(browser.come_back(url) for browser, url in zip(browsers, urls, strict=True))
    )
    assert [said(answer) for answer in answers] == [""] * 8
    found = select(func.count()).select_from(users).where(users.c.email == email)
    assert (await place.database.execute(found)).scalar_one() == 1


async def test_what_does_not_belong_to_the_browser_is_refused(place: Place):
    await place.user(sub="1000", email=new_email(), email_verified=True, name="X")
    browser, other = Browser(place), Browser(place)
    url = await browser.at_provider(await browser.begin("corp"))
    await other.begin("corp")
    body, _, mac = browser.state_cookie.partition(".")
    for cookie in ("", "x", other.state_cookie, f"{body}x.{mac}", f"{body}.{'0' * 64}", "é".encode().hex()):
        assert said(await browser.come_back(url, cookie)) == "invalid_state"
    assert said(await browser.come_back(url.replace("corp", "github"))) == "invalid_state"
    state = parse_qs(urlsplit(url).query)["state"][0]
    callback = url.partition("?")[0]
    assert said(await browser.come_back(f"{callback}?state={state}")) == "missing_code"
    assert said(await browser.come_back(f"{callback}?state={state}&code=guess")) == "exchange_failed"
    assert said(await browser.come_back(f"{callback}?state={state}&error=access_denied")) == "access_denied"
    assert said(await browser.come_back(f"{callback}?error=access_denied")) == "invalid_state"
    assert said(await browser.come_back(url)) == ""
    assert said(await browser.come_back(url)) == "exchange_failed", "a code is good once"
    # A code that was got with another verifier, put into one's own browser.
    url = await browser.at_provider(await browser.begin("corp"))
    code = parse_qs(urlsplit(url).query)["code"][0]
    own = parse_qs(urlsplit(await other.at_provider(await other.begin("corp"))).query)["state"][0]
    assert said(await other.come_back(f"{callback}?state={own}&code={code}")) == "exchange_failed"


@pytest.mark.parametrize(
    "switch",
    [{"key": 1}, {"nonce": "another"}, {"iss": "https://evil.example"}, {"aud": ["another"]}, {"exp": 1},
     {"aud": ["wrenn", "another"]}],
    ids=lambda s: next(iter(s)),
)  # fmt: skip
async def test_an_identity_token_that_is_not_for_us_is_refused(place: Place, switch: dict[str, object]):
    await place.user(sub="66", email=new_email(), email_verified=True, name="X")
    await place.switch(**switch)
    assert said(await Browser(place).sign_in("corp")) == "exchange_failed"


async def test_an_address_that_is_not_in_the_token_is_asked_for(place: Place):
    email = new_email()
    await place.user(sub="31", email=email, email_verified=True, name="Thin")
    await place.switch(thin=1)
    thin = await person(place, await Browser(place).sign_in("corp"))
    assert thin.email == email


async def test_an_address_of_which_the_provider_says_nothing_is_not_verified(place: Place):
    await place.user(sub="32", email=new_email(), name="Silent")
    silent = await person(place, await Browser(place).sign_in("corp"))
    assert (await silent.get("/v1/me")).json()["email_verified"] is False


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_address_that_is_not_verified_is_refused(place: Place, provider: str):
    await place.user(sub="67", email=new_email(), email_verified=False, name="X")
    assert said(await Browser(place).sign_in(provider)) == "exchange_failed"


async def test_a_deactivated_user_does_not_get_in(place: Place):
    email = new_email()
    await place.user(sub="68", email=email, email_verified=True, name="Off")
    await person(place, await Browser(place).sign_in("github"))
    await run_sql(
        place.platform.settings.database_url or "",
        f"UPDATE users SET status = 'disabled' WHERE email = '{email}'",
    )
    assert said(await Browser(place).sign_in("github")) == "account_deactivated"


async def test_a_user_who_refuses_at_the_provider_gets_an_error(place: Place):
    await place.switch(deny=1)
    assert said(await Browser(place).sign_in("corp")) == "access_denied"
