"""The steps of docs/tutorial/dashboard.md, in its order, from the link that `wrenn up` prints. It makes the pictures of that page."""

from __future__ import annotations

import re

from playwright.async_api import Browser, expect

from tests.integration import conftest as integration
from tests.integration.conftest import Platform
from tests.integration.people import sign_up
from wrenn.control.administration import create_sign_in_link

from .conftest import DESKTOP, SCREENSHOTS, watch


async def test_the_first_ten_minutes(browser: Browser, platform: Platform):
    person = await sign_up(platform.url)
    secret = await create_sign_in_link(str(platform.settings.database_url), email=person.email, life_s=600)
    context = await browser.new_context(viewport=DESKTOP, color_scheme="dark")
    page = await context.new_page()
    errors: list[str] = []
    watch(page, errors)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)

    # 1. The link.
    await page.goto(f"{platform.url}/sign-in-link#{secret.reveal()}")
    await expect(page.get_by_role("heading", name="Start your first sandbox")).to_be_visible()
    await page.screenshot(path=SCREENSHOTS / "tutorial-start.png")

    # 2. A sandbox and its terminal: the second click since the link.
    await page.get_by_role("button", name="Start a sandbox and open its terminal").click()
    text = page.locator(".xterm-rows").first
    await expect(text).to_contain_text("#")
    await page.keyboard.type("python3 -c 'print(6 * 7)' > answer.txt; cat answer.txt\n")
    await expect(text).to_contain_text("42")
    await page.screenshot(path=SCREENSHOTS / "tutorial-terminal.png")

    # 3. Files.
    await page.get_by_role("link", name="Files").click()
    await page.get_by_role("link", name="folder, root").click()
    await page.get_by_role("link", name="answer.txt").click()
    await expect(page.get_by_role("main")).to_contain_text("42")
    await page.screenshot(path=SCREENSHOTS / "tutorial-files.png")

    # 4. Pause and resume, with the terminal.
    await page.get_by_role("link", name="Terminal").click()
    await expect(text).to_contain_text("42")
    await page.get_by_role("button", name="Pause", exact=True).click()
    await page.get_by_role("button", name="Resume", exact=True).click()
    await expect(page.get_by_role("button", name="Pause", exact=True)).to_be_enabled()

    # 5. A fork.
    await page.get_by_role("button", name="Fork").click()
    await expect(page).to_have_url(re.compile("/sandboxes/cl-[a-z0-9]+$"))
    await page.get_by_role("navigation", name="Main").get_by_role("link", name="Sandboxes").click()
    await expect(page.get_by_role("row")).to_have_count(3)
    await page.screenshot(path=SCREENSHOTS / "tutorial-list.png")

    # 6. A key for programs.
    await page.get_by_role("navigation", name="Main").get_by_role("link", name="API keys").click()
    await page.get_by_role("button", name="Create the first key").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill("laptop")
    await dialog.get_by_role("button", name="Create").click()
    await expect(dialog.get_by_label("The key")).to_contain_text("wrn_")
    await dialog.get_by_role("button", name="I have stored it").click()

    # 7. The end.
    await page.get_by_role("navigation", name="Main").get_by_role("link", name="Sandboxes").click()
    await page.get_by_role("checkbox", name="Select all 2 that match").check()
    await (
        page.get_by_role("group", name="Actions on the selection")
        .get_by_role("button", name="Destroy")
        .click()
    )
    await expect(page.get_by_role("heading", name="Start your first sandbox")).to_be_visible()
    assert errors == []
    await context.close()
    await integration.empty(platform)
