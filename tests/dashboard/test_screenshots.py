"""Pictures of the pages in both themes and two widths, in `build/screenshots`, and the rules of accessibility on each of them.

Nothing is wider than the page; what a screen reader needs is there. The pictures are for people to look at.
"""

from __future__ import annotations

from .conftest import Visitor


async def test_pages_of_sandboxes(visitor: Visitor):
    page = visitor.page
    await visitor.open("sandboxes")
    await page.get_by_role("heading", name="Start your first sandbox").wait_for()
    await visitor.check_look("first-sandbox")
    running = await visitor.create(
        name="web server", metadata={"project": "blue", "stage": "test"}, timeout_sec=3600
    )
    paused = await visitor.create(
        name="analysis of the long name that does not fit into its column at all", vcpus=2
    )
    await visitor.person.post(f"/v1/sandboxes/{paused}/pause")
    await visitor.create(lifetime_sec=7200)
    await visitor.open("sandboxes")
    await page.get_by_role("row").nth(3).wait_for()
    await visitor.check_look("sandboxes")
    await visitor.open("sandboxes/new")
    await page.get_by_role("button", name="Create", exact=True).wait_for()
    await visitor.check_look("create")
    await visitor.open(f"sandboxes/{running}")
    await page.get_by_role("heading", name="web server").wait_for()
    await visitor.check_look("sandbox")
    await page.keyboard.press("Control+k")
    await page.keyboard.type("s")
    await visitor.check_look("palette")
    await page.goto(f"{visitor.person.url}/login")
    await page.get_by_role("link", name="Create an account").wait_for()
    await visitor.check_look("sign-in")
