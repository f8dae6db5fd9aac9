"""The audit log, the own account, and the page of one-time links."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.integration.conftest import Platform
from tests.integration.people import PASSWORD, log_in, sign_up
from wrenn.control.administration import create_sign_in_link

from .conftest import DESKTOP, Visitor, at, watch


async def test_the_audit_log_is_filtered_followed_and_exported(visitor: Visitor):
    page = visitor.page
    await visitor.person.make_key(name="=HYPERLINK(1)")
    sandbox = await visitor.create(name="audited")
    await visitor.open("audit?type=api_key")
    rows = page.get_by_role("row")
    await expect(rows).to_have_count(2)
    await expect(rows.nth(1)).to_contain_text("api key create")
    await visitor.create(name="another")
    await visitor.person.make_key(name="second")
    await page.get_by_role("button", name="1 new").click()
    await expect(rows).to_have_count(3)

    async with page.expect_download() as download:
        await page.get_by_role("button", name="Export CSV").click()
    path = await (await download.value).path()
    lines = list(csv.DictReader(io.StringIO(Path(path).read_text(), newline="")))
    assert [(line["resource_type"], line["action"]) for line in lines] == [("api_key", "create")] * 2
    assert all(not value.startswith(("=", "+", "-", "@")) for line in lines for value in line.values())

    await page.get_by_label("About").select_option("sandbox")
    await expect(page).to_have_url(re.compile("type=sandbox"))
    await page.get_by_label("Search", exact=True).fill(sandbox)
    await expect(rows).to_have_count(2)
    await page.reload()
    await expect(rows).to_have_count(2)
    await page.get_by_label("Time").select_option("24h")
    await expect(page).to_have_url(re.compile("since=24h"))
    await expect(rows).to_have_count(2)
    await page.get_by_label("Search", exact=True).fill("no entry has this")
    await expect(page.get_by_text("No entry matches")).to_be_visible()
    await page.get_by_label("Search", exact=True).fill(sandbox)
    await page.get_by_role("link", name=sandbox).click()
    await expect(page.get_by_role("heading", name="audited")).to_be_visible()


@pytest.mark.all_looks
async def test_a_log_of_several_pages_is_read_to_its_end(visitor: Visitor):
    page = visitor.page
    for _ in range(12):
        await asyncio.gather(*(visitor.person.make_key(name="one of many") for _ in range(9)))
    await visitor.open("audit?type=api_key")
    await expect(page.get_by_text("100 entries loaded", exact=True)).to_be_visible()
    await page.get_by_role("button", name="Load older ones").click()
    await expect(page.get_by_text("108 entries loaded, that is all")).to_be_visible()
    await expect(page.get_by_role("row")).to_have_count(109)


async def test_name_password_theme_and_zone_are_changed(visitor: Visitor):
    page, person = visitor.page, visitor.person
    await page.goto(f"{person.url}/account")
    await page.get_by_label("Name", exact=True).fill("Countess")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("link", name="Countess")).to_be_visible()
    await page.get_by_label("Current password").fill(PASSWORD)
    await page.get_by_label("New password", exact=True).fill("a new one that is long")
    await page.get_by_label("New password again").fill("a new one")
    await expect(page.get_by_role("button", name="Change")).to_be_disabled()
    await page.get_by_label("New password again").fill("a new one that is long")
    await page.get_by_role("button", name="Change").click()
    await expect(page.get_by_text("The password is changed.")).to_be_visible()
    assert (await log_in(person.url, person.email, "a new one that is long")).status_code == 200
    await page.get_by_label("Theme").select_option("light")
    await page.get_by_label("Times are in").select_option("utc")
    await page.reload()
    await expect(page.get_by_label("Theme")).to_have_value("light")
    assert await page.evaluate("document.documentElement.dataset.theme") == "light"
    await expect(page.get_by_label("Times are in")).to_have_value("utc")

    await page.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("textbox").fill(person.email)
    await dialog.get_by_role("button", name="Delete the account").click()
    await expect(page).to_have_url(at("/login"))
    assert (await log_in(person.url, person.email, "a new one that is long")).status_code == 401


async def test_another_team_is_created_and_shown(visitor: Visitor):
    page = visitor.page
    await page.goto(f"{visitor.person.url}/account")
    await page.get_by_label("Another team").fill("Second team")
    await page.get_by_role("button", name="Create").click()
    await expect(
        page.get_by_role("combobox", name="Team", exact=True).locator("option:checked")
    ).to_have_text("Second team")
    await expect(page.get_by_role("heading", name="Start your first sandbox")).to_be_visible()


async def test_a_link_signs_in_once_and_leaves_no_secret(browser: Browser, platform: Platform):
    person = await sign_up(platform.url)
    token = await create_sign_in_link(str(platform.settings.database_url), email=person.email, life_s=60)
    context = await browser.new_context(viewport=DESKTOP)
    page = await context.new_page()
    errors: list[str] = []
    watch(page, errors)
    await page.goto(f"{platform.url}/sign-in-link#{token.reveal()}")
    await expect(page.get_by_role("heading", name="Start your first sandbox")).to_be_visible()
    assert token.reveal() not in page.url
    assert errors == []
    await context.clear_cookies()
    await page.goto("about:blank")
    await page.goto(f"{platform.url}/sign-in-link#{token.reveal()}")
    await expect(page.get_by_role("alert")).to_be_visible()
    await expect(page).to_have_url(at("/sign-in-link"))
    await expect(page.get_by_role("main")).to_contain_text("wrenn open")
    await context.close()
