"""The pages for admins of the platform, and hosts of teams that bring their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import expect

from tests.integration import conftest as integration
from tests.integration.conftest import Platform, run_sql
from tests.integration.host_agents import AgentPlayer, elsewhere
from tests.integration.people import make_admin, sign_up

from .conftest import DEADLINE_MS, Profiles, Visitor, visit_in_profile


@pytest_asyncio.fixture(loop_scope="session")
async def admin(profiles: Profiles, platform: Platform) -> AsyncIterator[Visitor]:
    """An admin of the platform, signed in."""
    person = await sign_up(platform.url, name="Operator")
    await make_admin(str(platform.settings.database_url), person)
    async with visit_in_profile(profiles, person) as visitor:
        yield visitor
    await integration.empty(platform)


async def test_others_find_no_such_page(visitor: Visitor):
    await visitor.page.goto(f"{visitor.person.url}/admin/users")
    await expect(visitor.page.get_by_role("heading", name="There is no such page")).to_be_visible()


async def test_an_admin_whose_right_is_withdrawn_sees_nothing_more(admin: Visitor, platform: Platform):
    """The token says for minutes that its user is an admin; the database is asked each time."""
    page = admin.page
    await page.goto(f"{admin.person.url}/admin/users")
    await expect(page.get_by_role("row").filter(has_text=admin.person.email)).to_be_visible()
    await run_sql(
        str(platform.settings.database_url),
        f"UPDATE users SET is_admin = false WHERE email = '{admin.person.email}'",
    )
    await page.get_by_role("link", name="Teams").click()
    await expect(page.get_by_role("alert")).to_contain_text("forbidden")
    await expect(page.get_by_role("table")).to_have_count(0)
    await page.reload()
    await expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()
    admin.errors[:] = [error for error in admin.errors if "403" not in error]


async def test_users_are_made_admins_and_deactivated(admin: Visitor, platform: Platform):
    page = admin.page
    user = await sign_up(platform.url, name="Grace")
    await page.goto(f"{admin.person.url}/admin/users")
    row = page.get_by_role("row").filter(has_text=user.email)
    await row.get_by_role("button", name="Make admin").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("Nobody has verified")
    await dialog.get_by_role("textbox").fill(user.email)
    await dialog.get_by_role("button", name="Make admin").click()
    await expect(row.get_by_role("button", name="Withdraw admin")).to_be_visible()
    assert (await user.get("/v1/admin/users")).status_code == 200
    await row.get_by_role("button", name="Withdraw admin").click()
    await page.get_by_role("dialog").get_by_role("button", name="Withdraw").click()
    await row.get_by_role("button", name="Deactivate").click()
    await page.get_by_role("dialog").get_by_role("button", name="Deactivate").click()
    await expect(row).to_contain_text("disabled")
    assert (await user.get("/v1/me")).status_code == 401
    own = page.get_by_role("row").filter(has_text=admin.person.email)
    await expect(own.get_by_role("button", name="Deactivate")).to_be_disabled()
    await page.goto(f"{admin.person.url}/admin/audit?type=user")
    await expect(page.get_by_role("row").filter(has_text="user deactivate").first).to_be_visible()


async def test_limits_of_a_team_are_set_and_cleared(admin: Visitor, visitor: Visitor):
    page = admin.page
    await page.goto(f"{admin.person.url}/admin/teams")
    row = page.get_by_role("row").filter(has_text=visitor.slug)
    await row.get_by_role("button", name="Limits").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Running sandboxes").fill("0")
    await dialog.get_by_role("button", name="Save").click()
    await expect(dialog).to_have_count(0)
    path = f"/v1/admin/teams/{visitor.person.team_id}/limits"
    assert (await admin.person.get(path)).json() == {"running_sandboxes": 0}
    assert (await visitor.person.post("/v1/sandboxes", {})).status_code == 409
    await row.get_by_role("button", name="Limits").click()
    await expect(dialog.get_by_label("Running sandboxes")).to_have_value("0")
    await dialog.get_by_label("Running sandboxes").fill("")
    await dialog.get_by_role("button", name="Save").click()
    await expect(dialog).to_have_count(0)
    assert (await admin.person.get(path)).json() == {}


async def test_a_team_with_hosts_of_its_own_adds_drains_and_deletes_one(admin: Visitor, visitor: Visitor):
    page = admin.page
    await page.goto(f"{admin.person.url}/admin/teams")
    row = page.get_by_role("row").filter(has_text=visitor.slug)
    await row.get_by_role("button", name="Own hosts").click()
    await page.get_by_role("dialog").get_by_role("button", name="Enable").click()
    await expect(row).to_contain_text("its own")

    page = visitor.page
    await visitor.open("sandboxes")
    await page.get_by_role("link", name="Hosts").click()
    await expect(page.get_by_text("No host yet")).to_be_visible()
    await page.get_by_role("main").get_by_role("button", name="Add a host").first.click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill("rack1")
    await dialog.get_by_role("button", name="Create").click()
    token = await dialog.get_by_label("Registration token").text_content()
    assert token
    await dialog.get_by_role("button", name="Done").click()
    assert token not in await page.content()
    await page.get_by_role("link", name="rack1").click()
    await expect(page.get_by_role("main")).to_contain_text("It has not joined yet")
    agent = AgentPlayer(visitor.person.url, address=elsewhere())
    assert (await agent.register(token.strip())).status_code == 201
    await expect(page.get_by_role("main")).to_contain_text("It has registered")
    # The platform's admin sees whose it is.
    await admin.page.goto(f"{admin.person.url}/admin/hosts")
    of = (await visitor.person.get(f"/v1/teams/{visitor.person.team_id}")).json()["team"]["name"]
    await expect(admin.page.get_by_role("row").filter(has_text="rack1")).to_contain_text(of)
    await page.get_by_label("Another tag").fill("gpu")
    await page.get_by_role("button", name="Add").click()
    await expect(page.get_by_role("button", name="Remove the tag gpu")).to_be_visible()
    await page.get_by_role("button", name="Delete").click()
    await expect(page.get_by_role("dialog")).to_contain_text("no sandbox and no snapshot")
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("No host yet")).to_be_visible()
    assert (await visitor.person.get("/v1/hosts")).json() == []


async def test_a_host_of_the_platform_is_drained_and_used_again(admin: Visitor):
    page = admin.page
    await page.goto(f"{admin.person.url}/admin/hosts")
    await page.get_by_role("row").filter(has_text="online").get_by_role("link").click()
    await page.get_by_role("button", name="Drain").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("They are paused").check()
    await dialog.get_by_role("button", name="Drain").click()
    await expect(page.get_by_role("heading", name="Drained")).to_be_visible()
    await page.get_by_role("button", name="Use it again").click()
    await expect(page.get_by_role("button", name="Drain")).to_be_visible()
    await expect(page.get_by_role("main").get_by_text("online")).to_be_visible()


async def test_the_platform_builds_a_template_for_all_teams(
    admin: Visitor, visitor: Visitor, platform: Platform
):
    page = admin.page
    await page.goto(f"{admin.person.url}/admin/builds/new")
    await page.get_by_label("Name of the template").fill("shared")
    await page.get_by_label("Dockerfile", exact=True).fill('FROM template://minimal\nCMD ["sleep", "600"]\n')
    await page.get_by_role("button", name="Build", exact=True).click()
    await expect(page.get_by_role("link", name="Start a sandbox")).to_be_visible()
    await visitor.open("templates")
    row = visitor.page.get_by_role("row").filter(has_text="shared")
    await expect(row).to_contain_text("platform")
    await page.goto(f"{admin.person.url}/admin/templates")
    row = page.get_by_role("row").filter(has_text="shared")
    await expect(row).to_contain_text("the platform")
    await expect(row).to_contain_text("iB")  # what it takes on the hosts' disks
    # A team can use it, but not delete it: neither by the page nor by the API.
    await expect(visitor.page.get_by_role("button", name="Delete shared")).to_be_disabled()
    assert (await visitor.person.delete("/v1/templates/shared")).status_code == 403
    made = await visitor.create(template="shared")
    await visitor.person.delete(f"/v1/sandboxes/{made}")
    assert len(platform.host.snapshot_ids) == 1
    await row.get_by_role("button", name="Delete").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(row).to_have_count(0)
    # It goes from the page of the team, and from the hosts.
    await visitor.page.reload()
    await expect(visitor.page.get_by_role("row").filter(has_text="minimal")).to_be_visible()
    await expect(visitor.page.get_by_role("row").filter(has_text="shared")).to_have_count(0)
    async with asyncio.timeout(DEADLINE_MS / 1000):
        while platform.host.snapshot_ids:
            await asyncio.sleep(0.05)


async def test_the_load_of_the_platform_and_its_hosts(admin: Visitor):
    page = admin.page
    await admin.create(name="counted", vcpus=2)
    refused = await admin.person.post("/v1/sandboxes", {"template": "minimal", "vcpus": 60})
    assert refused.status_code >= 400
    await page.goto(f"{admin.person.url}/admin/load?range=5m")
    hosts = page.get_by_role("table", name="Load of the hosts")
    await expect(hosts.get_by_role("row").nth(1)).to_contain_text("1 running, 0 paused")
    await expect(page.get_by_role("region", name="vCPUs")).to_contain_text("2")
    await admin.check_look("admin-load")
    await hosts.get_by_role("link").first.click()
    await expect(page.get_by_role("heading", level=1)).not_to_have_text("Load")
