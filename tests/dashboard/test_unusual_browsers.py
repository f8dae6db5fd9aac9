"""Browsers that zoom, have a finger for a pointer, a wrong clock, no storage, or no JavaScript."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from playwright.async_api import Browser, Page, ViewportSize, expect

from tests.integration.conftest import Platform
from tests.integration.people import PASSWORD, new_email, sign_up

from .conftest import DESKTOP, PHONE, visit, watch

_BLOCKED_STORAGE = """for (const name of ['localStorage', 'sessionStorage', 'indexedDB', 'caches'])
  Object.defineProperty(window, name, { get() { throw new DOMException('storage is blocked', 'SecurityError'); } });"""


async def test_an_account_is_created_and_runs_its_first_sandbox(browser: Browser, platform: Platform):
    context = await browser.new_context(viewport=DESKTOP)
    page = await context.new_page()
    errors: list[str] = []
    watch(page, errors)
    await page.goto(f"{platform.url}/login")
    await page.get_by_role("link", name="Create an account").click()
    await page.get_by_label("Your name").fill("Ada Lovelace")
    await page.get_by_label("E-mail address").fill(new_email())
    await page.get_by_label("Password").fill("short")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile("/signup$"))  # the browser asks for more characters
    await page.get_by_label("Password").fill(PASSWORD)
    await page.keyboard.press("Enter")
    await page.get_by_role("button", name="Start a sandbox and open its terminal").click()
    await expect(page.locator(".xterm-rows").first).to_contain_text("#")
    assert errors == []
    await context.close()


@pytest.mark.all_looks
async def test_at_200_percent_everything_can_be_reached(browser: Browser, platform: Platform):
    """Zoom halves the size of the window in the pixels of the page."""
    person = await sign_up(platform.url)
    zoomed = ViewportSize(width=DESKTOP["width"] // 2, height=DESKTOP["height"] // 2)
    async with visit(browser, person, viewport=zoomed, device_scale_factor=2) as visitor:
        page = visitor.page
        sandbox_id = await visitor.create(name="seen from near", metadata={"project": "blue"})
        for path, heading in {
            "sandboxes": "Sandboxes",
            "sandboxes/new": "Create a sandbox",
            f"sandboxes/{sandbox_id}": "seen from near",
            f"sandboxes/{sandbox_id}/files?path=/etc": "seen from near",
            f"sandboxes/{sandbox_id}/metrics": "seen from near",
            "stats": "Statistics",
            "audit": "Audit log",
            "builds/new": "Build a template",
        }.items():
            await visitor.open(path)
            await expect(page.get_by_role("heading", name=heading, level=1)).to_be_visible()
            assert await overflow(page) <= 0, path
        await visitor.open(f"sandboxes/{sandbox_id}/terminal")
        text = page.locator(".xterm-rows").first
        await expect(text).to_contain_text("#")
        await page.keyboard.type("echo near-$((6 * 7))\n")
        await expect(text).to_contain_text("near-42")
        # A dialog that is higher than the window scrolls to its last button.
        await page.get_by_role("button", name="Snapshot").click()
        await page.get_by_role("dialog").get_by_role("button", name="Take the snapshot").click()
        await expect(page.get_by_role("dialog")).to_have_count(0)


@pytest.mark.all_looks
async def test_a_finger_is_enough(browser: Browser, platform: Platform):
    person = await sign_up(platform.url)
    async with visit(browser, person, viewport=PHONE, has_touch=True, is_mobile=True) as visitor:
        page = visitor.page
        await visitor.create(name="in the hand")
        await visitor.open("stats")
        await page.get_by_role("button", name="Menu").tap()
        await page.get_by_role("navigation", name="Main").get_by_role("link", name="Sandboxes").tap()
        await page.get_by_role("link", name="in the hand").tap()
        await page.get_by_role("link", name="Terminal").tap()
        text = page.locator(".xterm-rows").first
        await expect(text).to_contain_text("#")
        # What an on-screen keyboard has no keys for.
        await page.keyboard.type("sleep 1000\n")
        await expect(text).to_contain_text("sleep 1000")
        await page.get_by_role("button", name="Ctrl+C").tap()
        await expect(text).to_contain_text("^C")
        assert await overflow(page) <= 0


@pytest.mark.all_looks
@pytest.mark.parametrize("days", [1, -1])
async def test_a_clock_that_is_off_by_a_day(browser: Browser, platform: Platform, days: int):
    """Ages and ends are reckoned by the server's clock."""
    person = await sign_up(platform.url)
    async with visit(browser, person) as visitor:
        page = visitor.page
        await visitor.create(name="in time", lifetime_sec=7200)
        await page.clock.install(time=dt.datetime.now(dt.UTC) + dt.timedelta(days=days))
        await visitor.open("sandboxes")
        row = page.get_by_role("row").filter(has_text="in time")
        await expect(row).to_contain_text(re.compile(r"in 1 h 59 min|in 2 h"))
        await expect(row).to_contain_text(re.compile(r"just now|\d+ s ago"))
        await visitor.create(name="seen at once")
        await expect(page.get_by_role("link", name="seen at once")).to_be_visible()
        await expect(page.get_by_text(re.compile("Not live since"))).to_have_count(0)
        # The access token is renewed by the time that passes, so the session goes on.
        await page.clock.fast_forward("30:00")
        await page.get_by_role("link", name="in time").click()
        await page.get_by_role("button", name="Pause").click()
        await expect(page.get_by_role("button", name="Resume")).to_be_enabled()
        # The banner comes when there is no event stream, whatever the browser's clock says.
        await page.route("**/v1/events*", lambda route: route.abort())
        await page.reload()
        await expect(page.get_by_text(re.compile("Not live since"))).to_be_visible()
        visitor.errors.clear()  # the browser itself reports the calls that were broken off


@pytest.mark.all_looks
async def test_storage_that_is_blocked(browser: Browser, platform: Platform):
    person = await sign_up(platform.url)
    async with visit(browser, person) as visitor:
        page = visitor.page
        await visitor.context.add_init_script(_BLOCKED_STORAGE)
        await page.goto(f"{person.url}/account")
        await page.get_by_label("Theme").select_option("light")
        await page.get_by_label("Times are in").select_option("utc")
        # The choice lasts as long as the page.
        await page.get_by_role("navigation", name="Main").get_by_role("link", name="Sandboxes").click()
        await page.get_by_role("button", name="Start a sandbox and open its terminal").click()
        await expect(page.locator(".xterm-rows").first).to_contain_text("#")
        assert await page.evaluate("document.documentElement.dataset.theme") == "light"
        await page.reload()
        await expect(page.locator(".xterm-rows").first).to_contain_text("#")


async def test_without_javascript_there_is_a_sentence(browser: Browser, platform: Platform):
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(f"{platform.url}/t/any/sandboxes")
    await expect(page.locator("noscript p")).to_contain_text("The dashboard needs JavaScript")
    await expect(page.locator("noscript a")).to_have_attribute("href", re.compile("/docs$"))
    await context.close()


async def overflow(page: Page) -> int:
    """By how many pixels something is wider than the window."""
    return await page.evaluate("document.documentElement.scrollWidth - innerWidth")
