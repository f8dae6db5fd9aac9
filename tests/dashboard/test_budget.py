"""How many bytes of programs and styles each page loads, compressed, with an empty cache. Fonts are not counted: they do not hold up a page."""

from __future__ import annotations

from playwright.async_api import Browser, Page, Response, expect

from .conftest import Visitor, visit

SHELL_KB = 60
LIST_KB = 130
TERMINAL_KB = 90


class Loaded:
    """Counts what a page loads."""

    def __init__(self, page: Page) -> None:
        self._responses: list[Response] = []
        page.on("response", self._note)

    def _note(self, response: Response) -> None:
        self._responses.append(response)

    async def kilobytes(self) -> float:
        """So far, of scripts and styles."""
        total = 0
        for response in self._responses:
            if response.request.resource_type in ("script", "stylesheet") and response.status == 200:
                total += (await response.request.sizes())["responseBodySize"]
        return total / 1024


async def test_pages_load_no_more_than_their_budget(visitor: Visitor, browser: Browser):
    sandbox_id = await visitor.create(name="one")
    sizes: dict[str, float] = {}
    async with visit(browser, visitor.person) as fresh:
        loaded = Loaded(fresh.page)
        await fresh.page.goto(f"{fresh.person.url}/signup")
        await expect(fresh.page.get_by_role("button", name="Create the account")).to_be_visible()
        sizes["shell"] = await loaded.kilobytes()
        await fresh.page.goto(fresh.url("sandboxes"))
        await expect(fresh.page.get_by_role("row")).to_have_count(2)
        sizes["list"] = await loaded.kilobytes()
        await fresh.page.goto(fresh.url(f"sandboxes/{sandbox_id}"))
        await expect(fresh.page.get_by_role("heading", name="Facts")).to_be_visible()
        before = await loaded.kilobytes()
        await fresh.page.goto(fresh.url(f"sandboxes/{sandbox_id}/terminal"))
        await fresh.page.locator(".xterm").first.wait_for()
        sizes["terminal"] = await loaded.kilobytes() - before
    print({name: round(size, 1) for name, size in sizes.items()})
    assert sizes["shell"] <= SHELL_KB
    assert sizes["list"] <= LIST_KB
    assert sizes["terminal"] <= TERMINAL_KB
