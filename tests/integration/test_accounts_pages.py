"""The pages that links in mails lead to: what they are served with, and how they work in a real browser, by keyboard."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright, expect

from .conftest import client, run_sql
from .people import PASSWORD, People, log_in, new_email

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("forget_attempts")]

CHROMIUM = Path("/usr/bin/chromium")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
DEADLINE_MS = 30_000
NEW_PASSWORD = "chosen on the page"


async def mailed_token(people: People, email: str, purpose: str) -> str:
    """A token as a mail brings it."""
    token = f"wr{'v' if purpose == 'verify' else 'p'}_{hashlib.sha256(email.encode()).hexdigest()}"
    await run_sql(
        people.database_url,
        "INSERT INTO mailed_tokens (user_id, purpose, token_hash, email, expires_at)"
        f" SELECT id, '{purpose}', '{hashlib.sha256(token.encode()).hexdigest()}', email,"
        f" now() + interval '1 minute' FROM users WHERE email = '{email}'",
    )
    return token


async def test_pages_are_not_cached_and_load_nothing_from_other_origins(people: People):
    async with client(people.url, None) as api:
        for name in ("invitation", "verify-email", "reset-password", "parts/account.js", "parts/account.css"):
            answer = await api.get(f"/account/{name}")
            assert answer.status_code == 200
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["x-content-type-options"] == "nosniff"
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self';")
            assert "unsafe" not in policy
            assert "//" not in answer.text.replace("// ", ""), "no address of another host"
            assert "style=" not in answer.text
            assert " onclick" not in answer.text


async def done(page: Page, said: str) -> None:
    """The page says that it is done; its focus is there, so that a screen reader says it too."""
    await expect(page.locator("#done")).to_contain_text(said)
    await expect(page.locator("#done")).to_be_focused()
    assert page.url.partition("#")[2] == "", "a used secret does not stay in the history"


async def fill(page: Page, **fields: str) -> None:
    """By the labels, as a screen reader finds them; and the button by the Enter key."""
    for label, text in fields.items():
        await page.get_by_label(label.replace("_", " ")).fill(text)
    await page.keyboard.press("Enter")


@pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no Chromium: apt-get install chromium")
async def test_a_person_verifies_resets_and_accepts_in_a_browser(people: People):
    ada, new = await people.sign_up(), new_email("new")
    verify = await mailed_token(people, ada.email, "verify")
    reset = await mailed_token(people, ada.email, "reset")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        try:
            context = await browser.new_context(color_scheme="dark")
            page = await context.new_page()
            page.set_default_timeout(DEADLINE_MS)
            expect.set_options(timeout=DEADLINE_MS)
            faults: list[str] = []
            asked: list[str] = []
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on(
                "console",
                lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None,
            )
            page.on("request", lambda request: asked.append(request.url))

            await page.goto(f"{people.url}/account/verify-email#{verify}")
            assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
            assert (await ada.get("/v1/me")).json()["email_verified"] is False, "opening it uses nothing up"
            await page.keyboard.press("Tab")
            await page.keyboard.press("Enter")
            await done(page, "confirmed")
            assert (await ada.get("/v1/me")).json()["email_verified"] is True

            link = f"{people.url}/account/invitation#{await ada.invite(new)}"
            await page.goto(link)
            await page.get_by_label("I am new here").check()
            await fill(page, Your_name="New")
            assert await page.inner_text("#error") == "", "the browser itself asks for what is missing"
            await page.get_by_label("E-mail address").fill(new)
            await page.get_by_label("Password").fill(PASSWORD)
            await page.keyboard.press("Enter")
            await done(page, "Ada's Team")
            members = (await ada.get(f"/v1/teams/{ada.team_id}/members")).json()
            assert [member["email"] for member in members] == [ada.email, new]
            assert await context.cookies() == [], "the page leaves nobody logged in"

            await page.goto(f"{people.url}/account/reset-password#{reset}")
            await fill(page, New_password=NEW_PASSWORD, The_same_again="something else")
            await expect(page.locator("#error")).to_contain_text("differ")
            await fill(page, The_same_again=NEW_PASSWORD)
            await done(page, "changed")
            await page.goto("about:blank")
            await page.goto(f"{people.url}/account/reset-password#{reset}")
            await fill(page, New_password=NEW_PASSWORD, The_same_again=NEW_PASSWORD)
            await expect(page.locator("#error")).to_contain_text("cannot be used")

            assert faults == []
            assert [url for url in asked if not url.startswith(people.url)] == []
            assert [
                url for url in asked if "wrv_" in url.partition("#")[0] or "wri_" in url.partition("#")[0]
            ] == []
        finally:
            await browser.close()
    assert (await log_in(people.url, ada.email, NEW_PASSWORD)).status_code == 200
