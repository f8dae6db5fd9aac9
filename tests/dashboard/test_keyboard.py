"""The main path without a mouse: Tab and Shift+Tab reach everything, and what has the focus is seen to have it."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.integration import conftest as integration
from tests.integration.conftest import Platform
from tests.integration.people import PASSWORD, sign_up

from .conftest import Profiles, watch

_MOST_STOPS = 60
# The name of what has the focus, and whether an outline shows it.
_FOCUSED = """() => {
  const element = document.activeElement;
  const name = element.ariaLabel ?? element.labels?.[0]?.textContent ?? element.textContent;
  return [name.trim(), getComputedStyle(element).outlineStyle !== 'none'];
}"""


async def tab_to(page: Page, name: str) -> None:
    """Press Tab until what is called `name` has the focus."""
    passed: list[str] = []
    for _ in range(_MOST_STOPS):
        await page.keyboard.press("Tab")
        focused, is_outlined = await page.evaluate(_FOCUSED)
        if focused == name:
            assert is_outlined, f"{name} does not show that it has the focus"
            return
        passed.append(focused)
    raise AssertionError(f"{name} is not reached; passed {passed}")


@pytest.mark.all_looks
async def test_the_main_path_by_keyboard_only(profiles: Profiles, platform: Platform):
    person = await sign_up(platform.url)
    async with profiles.lend() as context:
        page = await context.new_page()
        errors: list[str] = []
        watch(page, errors)
        await page.goto(f"{platform.url}/login")
        await expect(page.get_by_role("button", name="Sign in")).to_be_visible()
        await tab_to(page, "E-mail address")
        await page.keyboard.type(person.email)
        await tab_to(page, "Password")
        await page.keyboard.type(PASSWORD)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Start your first sandbox")).to_be_visible()
        await tab_to(page, "Create sandbox")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Create a sandbox")).to_be_visible()
        await tab_to(page, "Name")
        await page.keyboard.type("typed")
        await tab_to(page, "Create")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="typed")).to_be_visible()

        await tab_to(page, "Terminal")
        await page.keyboard.press("Enter")
        text = page.locator(".xterm-rows").first
        await expect(text).to_contain_text("#")
        await page.keyboard.type("echo by-$((6 * 7))\n")
        await expect(text).to_contain_text("by-42")
        await page.keyboard.press("Control+F6")  # Tab is for the program in the terminal
        await page.keyboard.press("g")
        await page.keyboard.press("s")
        await expect(page.get_by_role("row")).to_have_count(2)
        await tab_to(page, "typed")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="typed")).to_be_visible()
        await tab_to(page, "Snapshot")
        await page.keyboard.press("Enter")
        await tab_to(page, "Take the snapshot")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog")).to_have_count(0)
        await tab_to(page, "Pause")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("button", name="Resume", exact=True)).to_be_enabled()
        await page.keyboard.press("g")
        await page.keyboard.press("s")
        await expect(page.get_by_role("row")).to_have_count(2)
        await tab_to(page, "Select typed")
        await page.keyboard.press("Space")
        await tab_to(page, "Search")
        await tab_to(page, "Destroy")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Start your first sandbox")).to_be_visible()
        assert errors == []
    await integration.empty(platform)
