"""Sign-in, the list of sandboxes, and the life of one sandbox."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import re
import sys
from asyncio.subprocess import PIPE

import pytest
from playwright.async_api import Browser, expect

from tests.integration.conftest import Platform
from tests.integration.people import PASSWORD, log_in, sign_up
from wrenn.base.errors import AgentFailure, InternalError
from wrenn.base.faults import arm_faults

from .conftest import DESKTOP, Profiles, Visitor, at, path_of, watch

_MOST_ATTEMPTS = 20


async def test_somebody_who_is_not_signed_in_signs_in_and_comes_back(browser: Browser, platform: Platform):
    person = await sign_up(platform.url)
    slug = (await person.get(f"/v1/teams/{person.team_id}")).json()["team"]["slug"]
    context = await browser.new_context(viewport=DESKTOP)
    page = await context.new_page()
    errors: list[str] = []
    watch(page, errors)
    await page.goto(f"{platform.url}/t/{slug}/sandboxes/new?template=minimal")
    await expect(page).to_have_url(re.compile("/login"))
    assert errors == []
    await page.get_by_label("E-mail address").fill(person.email)
    await page.get_by_label("Password").fill("not the password")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("unauthorized")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Create a sandbox")).to_be_visible()
    assert path_of(page) == f"/t/{slug}/sandboxes/new"
    await page.get_by_role("button", name="Sign out").click()
    await expect(page).to_have_url(at("/login"))
    await page.goto(f"{platform.url}/t/{slug}/sandboxes")
    await expect(page).to_have_url(re.compile("/login"))
    await context.close()


@pytest.mark.all_looks
async def test_too_many_attempts_to_sign_in_are_counted_down(profiles: Profiles, platform: Platform):
    person = await sign_up(platform.url)
    await asyncio.gather(*(log_in(platform.url, person.email, "not the password") for _ in range(10)))
    async with profiles.lend() as context:
        page = await context.new_page()
        await page.goto(f"{platform.url}/login")
        await page.get_by_label("E-mail address").fill(person.email)
        await page.get_by_label("Password").fill("not the password")
        for _ in range(_MOST_ATTEMPTS):
            async with page.expect_response(re.compile("/v1/auth/login$")) as answering:
                await page.keyboard.press("Enter")
            if (await answering.value).status == 429:
                break
            await expect(page.get_by_role("button", name="Sign in", exact=True)).to_be_enabled()
        await expect(page.get_by_role("alert")).to_contain_text("rate_limited")
        button = page.get_by_role("button", name=re.compile(r"^Sign in again in \d"))
        await expect(button).to_be_disabled()
        await expect(page.get_by_role("button", name="Sign in", exact=True)).to_be_enabled()


async def test_the_programs_for_a_new_sandbox_do_what_the_form_says(visitor: Visitor):
    page = visitor.page
    key = (await visitor.person.make_key(name="programs", scope="sandboxes"))["key"]
    await visitor.open("sandboxes/new")
    await page.get_by_label("Name", exact=True).fill('it\'s "new" \\ ü$HOME')
    await page.get_by_text("Environment and labels").click()
    await page.get_by_label("Labels").fill("project=blue")
    for language, program in (
        ("curl", ["bash", "-c"]),
        ("Python", [sys.executable, "-c"]),
        ("TypeScript", ["node", "--input-type=module", "-e"]),
    ):
        await page.get_by_role("button", name=language).click()
        text = await page.locator("pre").text_content()
        assert text is not None
        if language == "TypeScript":
            # The only part of it that JavaScript does not have.
            text = text.replace("WRENN_API_KEY!", "WRENN_API_KEY")
        process = await asyncio.create_subprocess_exec(
            *program, text, env={**os.environ, "WRENN_API_KEY": key}, stdout=PIPE, stderr=PIPE
        )
        output, errors = await process.communicate()
        assert process.returncode == 0, (language, errors.decode())
        made = (await visitor.person.get("/v1/sandboxes")).json()
        assert len(made) == 1, (language, output.decode())
        assert made[0]["name"] == 'it\'s "new" \\ ü$HOME'
        assert made[0]["metadata"]["project"] == "blue"
        assert made[0]["id"] in output.decode()
        await visitor.person.delete(f"/v1/sandboxes/{made[0]['id']}")


async def test_a_sandbox_from_its_creation_to_its_end(visitor_with_own_profile: Visitor):
    visitor = visitor_with_own_profile
    page = visitor.page
    await visitor.open("sandboxes")
    await expect(page.get_by_role("heading", name="Start your first sandbox")).to_be_visible()
    await page.get_by_role("link", name="Create sandbox").click()
    await page.get_by_label("Name", exact=True).fill("builder")
    await page.get_by_text("Environment and labels").click()
    await page.get_by_label("Labels").fill("project=blue")
    await expect(page.locator("pre")).to_contain_text('metadata={"project": "blue"}')
    await page.get_by_role("button", name="Create", exact=True).click()
    await expect(page.get_by_role("heading", name="builder")).to_be_visible()
    await expect(page.get_by_role("main")).to_contain_text("project=blue")
    sandbox_id = path_of(page).rpartition("/")[2]

    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("button", name="Resume")).to_be_enabled()
    assert (await visitor.person.get(f"/v1/sandboxes/{sandbox_id}")).json()["status"] == "paused"
    await expect(page.get_by_role("main")).to_contain_text(
        re.compile("Paused in [0-9,]+ ms.*memory [0-9,]+ ms")
    )
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_role("button", name="Pause")).to_be_enabled()

    # The page's clock stands still, so that this machine may be slow to press Undo.
    await page.clock.pause_at(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1))
    await page.get_by_role("button", name="Destroy").click()
    row = page.get_by_role("row").filter(has_text="builder")
    await expect(row).to_contain_text("destroying")
    await page.get_by_role("button", name="Undo: 1 sandbox will be destroyed.").click()
    await expect(row).to_contain_text("running")
    await page.clock.resume()
    await row.get_by_role("checkbox").check()
    await (
        page.get_by_role("group", name="Actions on the selection")
        .get_by_role("button", name="Destroy")
        .click()
    )
    await expect(page.get_by_role("heading", name="Start your first sandbox")).to_be_visible()
    assert (await visitor.person.get("/v1/sandboxes")).json() == []
    await visitor.open(f"sandboxes/{sandbox_id}")
    await expect(page.get_by_role("main")).to_contain_text("does not exist")
    visitor.errors.clear()  # the browser itself reports the 404


async def test_a_sandbox_that_failed_says_why(visitor: Visitor, platform: Platform):
    page = visitor.page
    platform.host.switches.fail["ensure_sandbox"] = AgentFailure("The guest did not answer.")
    try:
        answer = await visitor.person.post("/v1/sandboxes", {"name": "never started"})
    finally:
        platform.host.switches.fail.clear()
    assert answer.status_code == 502
    log = (await visitor.person.get("/v1/audit-logs?action=marked_error")).json()["items"]
    await visitor.open(f"sandboxes/{log[0]['resource_id']}")
    end = page.get_by_role("main")
    await expect(end).to_contain_text("This sandbox has failed")
    await expect(end).to_contain_text("never started")
    await expect(end).to_contain_text("The guest did not answer.")
    await expect(end).to_contain_text(re.compile("create by .*, "))
    await visitor.check_look("sandbox-failed")


async def test_a_slow_start_is_seen_step_by_step(visitor: Visitor):
    page = visitor.page
    arm_faults("agent.create.after_disk=sleep:2")
    try:
        await visitor.open("sandboxes/new")
        await page.get_by_label("Name", exact=True).fill("slow to start")
        await page.get_by_role("button", name="Create", exact=True).click()
        form = page.get_by_role("main")
        await expect(form).to_contain_text(re.compile("Starting ….*network [0-9,]+ ms"))
        assert path_of(page).endswith("/sandboxes/new")
        await expect(page.get_by_role("heading", name="slow to start")).to_be_visible()
    finally:
        arm_faults("")


async def test_a_pause_that_fails_leaves_the_sandbox_running(visitor: Visitor, platform: Platform):
    """It is marked as paused before its host is asked, and as running again when that fails."""
    page = visitor.page
    sandbox_id = await visitor.create(name="kept awake")
    await visitor.open(f"sandboxes/{sandbox_id}")
    platform.host.switches.fail["pause_sandbox"] = InternalError("no")
    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_text("Not paused")).to_be_visible()
    await expect(page.get_by_role("button", name="Pause")).to_be_enabled()
    answer = await visitor.person.post(
        f"/v1/sandboxes/{sandbox_id}/exec", {"cmd": "/bin/echo", "args": ["awake"]}
    )
    assert answer.json()["stdout"] == "awake\n"
    platform.host.switches.fail.clear()
    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("button", name="Resume")).to_be_enabled()
    visitor.errors.clear()  # the browser itself reports the 500


async def test_the_list_follows_what_happens_elsewhere(visitor: Visitor):
    page = visitor.page
    first = await visitor.create(name="first")
    await visitor.open("sandboxes")
    rows = page.get_by_role("row")
    await expect(rows).to_have_count(2)
    await page.get_by_role("checkbox", name="Select first").check()
    second = await visitor.create(name="second", metadata={"colour": "green"})
    await expect(rows).to_have_count(3)
    await expect(page.get_by_role("checkbox", name="Select first")).to_be_checked()
    await visitor.person.post(f"/v1/sandboxes/{first}/pause")
    await expect(rows.filter(has_text="first")).to_contain_text("paused")
    await page.get_by_label("Search").fill("green")
    await expect(rows).to_have_count(2)
    assert "q=green" in page.url
    await page.reload()
    await expect(page.get_by_label("Search")).to_have_value("green")
    await expect(rows).to_have_count(2)
    await visitor.person.delete(f"/v1/sandboxes/{second}")
    await expect(page.get_by_text("No sandbox matches")).to_be_visible()


@pytest.mark.all_looks
async def test_the_menu_of_a_row_by_keyboard(visitor: Visitor):
    page = visitor.page
    sandbox_id = await visitor.create(name="with a menu")
    await visitor.open("sandboxes")
    button = page.get_by_role("button", name="Actions on with a menu")
    await button.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("menuitem", name="Resume")).to_be_disabled()
    await page.keyboard.press("Escape")
    await expect(button).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("menuitem", name="Open the terminal")).to_be_focused()
    # The row changes below the open menu, which stays.
    await visitor.person.patch(f"/v1/sandboxes/{sandbox_id}/timeout", {"timeout_sec": 60})
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("row").nth(1)).to_contain_text("paused")
    await expect(page.get_by_role("menu")).to_have_count(0)


@pytest.mark.all_looks
async def test_keys_open_pages_and_sandboxes(visitor: Visitor):
    page = visitor.page
    sandbox_id = await visitor.create(name="found by key")
    await visitor.open("sandboxes/new")
    await page.get_by_role("heading", name="Create a sandbox").wait_for()
    await page.keyboard.press("g")
    await page.keyboard.press("s")
    await expect(page.get_by_role("row")).to_have_count(2)
    await page.keyboard.press("/")
    await expect(page.get_by_label("Search")).to_be_focused()
    await page.keyboard.type("g s?")
    await expect(page.get_by_label("Search")).to_have_value("g s?")
    await page.keyboard.press("Control+k")
    await page.keyboard.type(sandbox_id)
    await expect(page.get_by_role("listbox", name="Results").get_by_role("option")).to_have_count(1)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="found by key")).to_be_visible()
    await expect(page.get_by_role("dialog")).to_have_count(0)

    # Speech input presses single keys by accident: they can be switched off.
    await page.goto(f"{visitor.person.url}/account")
    switch = page.get_by_role("checkbox", name="Single keys")
    for is_on in (False, True):
        await switch.set_checked(is_on)
        await switch.blur()
        await page.keyboard.press("?")
        await expect(page.get_by_role("dialog", name="Keys")).to_have_count(int(is_on))


async def test_what_people_chose_is_never_markup(visitor: Visitor):
    page = visitor.page
    name = "<img src=x onerror=\"document.title='owned'\">\u202etxt"
    await visitor.create(name=name, metadata={"a": "<b>bold</b>"})
    await visitor.open("sandboxes")
    link = page.get_by_role("link", name="<img")
    await expect(link).to_have_text("<img src=x onerror=\"document.title='owned'\">⟨U+202E⟩txt")
    await link.click()
    await expect(page.get_by_role("main")).to_contain_text("a=<b>bold</b>")
    assert "owned" not in await page.title() or "<img" in await page.title()
    assert await page.locator("main img").count() == 0
