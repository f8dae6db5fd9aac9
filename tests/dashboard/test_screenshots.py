"""Pictures of the pages in both themes and two widths, in `build/screenshots`, and the rules of accessibility on each of them.

Nothing is wider than the page; what a screen reader needs is there. The pictures are for people to look at.
"""

from __future__ import annotations

import pytest

from tests.integration.conftest import Platform
from tests.integration.people import make_admin, sign_up

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


@pytest.mark.all_looks
async def test_pages_of_a_team(visitor: Visitor, platform: Platform):
    page, person = visitor.page, visitor.person
    await visitor.open("builds")
    await page.get_by_role("heading", name="Builds").wait_for()
    await visitor.check_look("no-builds")
    await person.add(await sign_up(platform.url, name="Grace Hopper"), "admin")
    await person.invite("margaret.hamilton.with.a.long.address@apollo.example")
    await person.make_key(name="continuous integration", scope="sandboxes")
    sandbox_id = await visitor.create(name="web")
    await person.post("/v1/snapshots", {"sandbox_id": sandbox_id, "name": "web-ready"})
    recipe = ["RUN echo one", "RUN echo two; exit 3"]
    build = await person.post("/v1/builds", {"name": "web", "skip_pre_post": True, "recipe": recipe})
    await visitor.open(f"builds/{build.json()['id']}")
    await page.get_by_role("alert").wait_for()
    await page.get_by_text("two", exact=True).wait_for()
    await visitor.check_look("build")
    for name in ("keys", "team", "templates", "builds", "audit"):
        await visitor.open(name)
        await page.get_by_role("row").nth(1).wait_for()
        await visitor.check_look(name)
    await page.goto(f"{person.url}/account")
    await page.get_by_role("heading", name="Change the password").wait_for()
    await visitor.check_look("account")
    await visitor.open("keys")
    await page.get_by_role("button", name="Create key").click()
    await page.get_by_role("dialog").get_by_label("Name").fill("notebook")
    await page.get_by_role("dialog").get_by_role("button", name="Create").click()
    await page.get_by_role("button", name="I have stored it").wait_for()
    await visitor.check_look("new-key")


@pytest.mark.all_looks
async def test_pages_of_the_platform(visitor: Visitor, platform: Platform):
    page = visitor.page
    await make_admin(str(platform.settings.database_url), visitor.person)
    for name in ("hosts", "templates", "teams", "users"):
        await page.goto(f"{visitor.person.url}/admin/{name}")
        await page.get_by_role("row").nth(1).wait_for()
        await visitor.check_look(f"admin-{name}")
    await page.goto(f"{visitor.person.url}/admin/hosts")
    await page.get_by_role("link", name="local").click()
    await page.get_by_role("heading", name="Tags").wait_for()
    await visitor.check_look("admin-host")
    await page.goto(f"{visitor.person.url}/admin/builds/new")
    await page.get_by_role("button", name="Build", exact=True).wait_for()
    await visitor.check_look("new-build")
