"""The team's pages: API keys, members, invitations, settings, and what each role may do."""

from __future__ import annotations

import re

from playwright.async_api import expect

from tests.integration.conftest import Platform
from tests.integration.people import sign_up

from .conftest import Profiles, Visitor, at, visit_in_profile


async def test_a_key_is_shown_once_works_and_is_revoked(visitor: Visitor):
    page = visitor.page
    await visitor.open("keys")
    await page.get_by_role("button", name="Create the first key").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill("<b>CI</b>")
    await dialog.get_by_label("For").select_option("read")
    await dialog.get_by_label("Expires").select_option("30")
    await dialog.get_by_role("button", name="Create").click()
    key = await dialog.get_by_label("The key").text_content()
    assert key is not None
    await expect(dialog.get_by_label("Shell variables")).to_contain_text(f"export WRENN_API_KEY='{key}'")
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_visible()  # the key cannot be lost by a stray key
    figure = dialog.get_by_role("figure").filter(has=page.get_by_label("The key"))
    await page.evaluate(
        "navigator.clipboard.writeText = () => Promise.reject(); document.execCommand = () => false"
    )
    await figure.get_by_role("button", name="Copy").click()
    await expect(figure.get_by_role("status")).to_contain_text("The browser refused to copy it")
    assert await page.evaluate("String(getSelection())") == key
    await page.evaluate("document.execCommand = () => true")
    await figure.get_by_role("button", name="Copy").click()
    await expect(figure.get_by_role("status")).to_have_text("Copied.")
    await dialog.get_by_role("button", name="I have stored it").click()
    row = page.get_by_role("row").filter(has_text="<b>CI</b>")
    await expect(row).to_contain_text("reading only")
    assert key not in await page.content()

    made = (await visitor.person.get("/v1/api-keys")).json()
    assert [(entry["scope"], key.startswith(entry["key_prefix"])) for entry in made] == [("read", True)]
    await visitor.person.make_key(name="made elsewhere")
    await expect(page.get_by_role("row")).to_have_count(3)
    await row.get_by_role("button", name="Revoke").click()
    await page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    await expect(page.get_by_role("row")).to_have_count(2)
    assert [entry["name"] for entry in (await visitor.person.get("/v1/api-keys")).json()] == [
        "made elsewhere"
    ]


async def test_somebody_is_invited_becomes_admin_and_is_removed(visitor: Visitor, platform: Platform):
    page = visitor.page
    grace = await sign_up(platform.url, name="Grace")
    await visitor.open("team")
    await page.get_by_role("button", name="Invite").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("E-mail address").fill(grace.email)
    await dialog.get_by_role("button", name="Invite").click()
    link = await dialog.get_by_label("Link of the invitation").text_content()
    assert link is not None
    await dialog.get_by_role("button", name="Done").click()
    invitations = page.get_by_role("table", name="Open invitations")
    await expect(invitations).to_contain_text(grace.email)

    answer = await grace.post("/v1/invitations/accept", {"token": link.partition("#")[2]})
    assert answer.status_code == 200, answer.text
    row = page.get_by_role("table", name="Members").get_by_role("row").filter(has_text=grace.email)
    await expect(row).to_be_visible()  # by an event, without a reload
    await expect(invitations).to_have_count(0)
    await row.get_by_label("Role of Grace").select_option("admin")
    await expect(page.get_by_text("Grace is admin now.")).to_be_visible()
    members = (await visitor.person.get(f"/v1/teams/{visitor.person.team_id}/members")).json()
    assert {member["email"]: member["role"] for member in members}[grace.email] == "admin"

    await row.get_by_role("button", name="Remove").click()
    await page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    await expect(row).to_have_count(0)
    members = (await visitor.person.get(f"/v1/teams/{visitor.person.team_id}/members")).json()
    assert [member["email"] for member in members] == [visitor.person.email]


async def test_a_member_sees_what_is_for_admins_and_why(
    visitor: Visitor, platform: Platform, profiles: Profiles
):
    member = await visitor.person.add(await sign_up(platform.url, name="Alan"))
    async with visit_in_profile(profiles, member) as guest:
        page = guest.page
        await guest.open("team")
        invite = page.get_by_role("button", name="Invite")
        await expect(invite).to_be_disabled()
        await expect(invite).to_have_attribute("title", "Only an admin or the owner of the team may do this.")
        await expect(page.get_by_role("button", name="Save")).to_be_disabled()
        await expect(page.get_by_label("Name", exact=True)).to_be_disabled()
        await expect(page.get_by_role("button", name="Delete")).to_be_disabled()
        # Made an admin meanwhile: the page follows.
        path = f"/v1/teams/{visitor.person.team_id}/members/{member.user_id}"
        assert (await visitor.person.patch(path, {"role": "admin"})).status_code == 204
        await expect(invite).to_be_enabled()

        await page.get_by_role("button", name="Leave").click()
        await page.get_by_role("dialog").get_by_role("button", name="Leave").click()
        await expect(page.get_by_text("You have left")).to_be_visible()
        await expect(page.get_by_role("heading", name="Sandboxes")).to_be_visible()
        assert guest.slug not in page.url


async def test_what_was_typed_outlives_a_click_and_the_membership(
    visitor: Visitor, platform: Platform, profiles: Profiles
):
    member = await visitor.person.add(await sign_up(platform.url, name="Alan"))
    async with visit_in_profile(profiles, member) as guest:
        page = guest.page
        await guest.open("builds/new")
        recipe = page.get_by_label("Dockerfile", exact=True)
        await recipe.fill("FROM template://minimal\nRUN typed by hand\n")
        page.on("dialog", lambda question: question.dismiss())
        async with page.expect_event("dialog") as asked:
            await page.get_by_role("link", name="Templates", exact=True).click()
        assert (await asked.value).message == "What you typed is not saved. Discard it?"
        path = f"/v1/teams/{visitor.person.team_id}/members/{member.user_id}"
        assert (await visitor.person.delete(path)).status_code == 204
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text("You are no longer in the team")
        await guest.check_look("departure")
        await dialog.get_by_role("button", name="Stay and copy").click()
        await page.get_by_label("Name of the template").fill("mine")
        await page.get_by_role("button", name="Build", exact=True).click()
        await expect(page.get_by_role("alert")).to_contain_text("forbidden")
        await expect(recipe).to_have_value(re.compile("typed by hand"))
        guest.errors.clear()  # the browser reports what was refused


async def test_a_team_is_renamed_transferred_and_deleted(
    visitor: Visitor, platform: Platform, profiles: Profiles
):
    page = visitor.page
    heir = await visitor.person.add(await sign_up(platform.url, name="Grace"))
    await visitor.open("team")
    await page.get_by_label("Name", exact=True).fill("Laboratory")
    await page.get_by_role("button", name="Save").click()
    await expect(
        page.get_by_role("combobox", name="Team", exact=True).locator("option:checked")
    ).to_have_text("Laboratory")
    await page.get_by_label("Transfer the team to").select_option(heir.user_id)
    await page.get_by_role("button", name="Transfer").click()
    await page.get_by_role("dialog").get_by_role("button", name="Transfer").click()
    await expect(page.get_by_role("button", name="Delete")).to_be_disabled()
    await expect(page.get_by_role("row").filter(has_text="Grace")).to_contain_text("owner")
    await page.goto("about:blank")  # what it asked for would be refused

    async with visit_in_profile(profiles, heir) as owner:
        await owner.open("team")
        await owner.page.get_by_role("button", name="Delete").click()
        dialog = owner.page.get_by_role("dialog")
        await expect(dialog.get_by_role("button", name="Delete the team")).to_be_disabled()
        await dialog.get_by_role("textbox").fill("Laboratory")
        await dialog.get_by_role("button", name="Delete the team").click()
        await expect(owner.page.get_by_text("Deleted Laboratory.")).to_be_visible()
        await expect(owner.page).not_to_have_url(at(f"/t/{owner.slug}/team"))
