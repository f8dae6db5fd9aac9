"""What a browser meets in practice: many tabs, a plain HTTP address, thousands of sandboxes, an end of the session, an outage."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.integration.conftest import (
    Platform,
    control_process,
    environment_of,
    own_database,
    run_sql,
    running_control_plane,
)
from tests.integration.people import PASSWORD, sign_up
from tests.integration.postgres_servers import end
from wrenn.control.db.embedded import ensure_running
from wrenn.testing.agent_host import AgentHost, agent_host
from wrenn.testing.server import free_port

from .conftest import CHROMIUM, DESKTOP, QUIET, Visitor, visit, watch
from .many_sandboxes import copies_of


async def test_eight_tabs_share_one_event_stream(visitor: Visitor):
    streams: list[Page] = []
    pages = [visitor.page, *[await visitor.new_page() for _ in range(7)]]
    for page in pages:
        page.on(
            "request",
            lambda request, page=page: streams.append(page) if "/v1/events" in request.url else None,
        )
    for page in pages:
        await page.goto(visitor.url("sandboxes"))
        await page.get_by_role("heading", name="Start your first sandbox").wait_for()
    await visitor.create(name="seen by all")
    for page in pages:
        await expect(page.get_by_role("link", name="seen by all")).to_be_visible()
    assert len(streams) == 1
    # The tab that reads the stream is closed: another one takes over, and nothing is missed.
    await streams[0].close()
    await visitor.create(name="seen by the others")
    for page in pages:
        if page is not streams[0]:
            await expect(page.get_by_role("link", name="seen by the others")).to_be_visible()
    assert len(streams) == 2


@pytest_asyncio.fixture(loop_scope="session")
async def reached_by_name(platform: Platform) -> AsyncIterator[Platform]:
    """Another control plane of the platform, which accepts a host name."""
    accounts = replace(platform.settings.accounts, public_url="http://wrenn.test")
    settings = replace(platform.settings, accounts=accounts)
    async with running_control_plane(settings, platform.key) as control:
        yield replace(platform, url=control.url)


@pytest.mark.all_looks
async def test_it_works_over_plain_http_under_a_host_name(reached_by_name: Platform):
    """There the browser has neither Web Locks nor a clipboard, so two tabs agree by messages, and each visible one is live."""
    person = await sign_up(reached_by_name.url)
    url = reached_by_name.url.replace("127.0.0.1", "wrenn.test")
    async with async_playwright() as playwright:
        resolve = "--host-resolver-rules=MAP wrenn.test 127.0.0.1"
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, resolve])
        context = await browser.new_context(viewport=DESKTOP)
        errors: list[str] = []
        first, second = await context.new_page(), await context.new_page()
        for page in (first, second):
            watch(page, errors)
        await first.goto(f"{url}/login")
        assert await first.evaluate("navigator.locks === undefined")
        await first.get_by_label("E-mail address").fill(person.email)
        await first.get_by_label("Password").fill(PASSWORD)
        await first.keyboard.press("Enter")
        await first.get_by_role("heading", name="Start your first sandbox").wait_for()
        # Both refresh at once: if both used the same refresh token, the session would end.
        for _ in range(3):
            reloads = [page.goto(f"{url}/") for page in (first, second)]
            for reload in reloads:
                await reload
            for page in (first, second):
                await page.get_by_role("heading", name="Start your first sandbox").wait_for()
        assert (await person.post("/v1/sandboxes", {"name": "plain"})).status_code == 201
        for page in (first, second):
            await expect(page.get_by_role("link", name="plain")).to_be_visible()
        await first.get_by_role("row").nth(1).get_by_title("Copy the id").click()
        await expect(first.get_by_text("Copied.")).to_be_visible()
        assert errors == []
        await browser.close()


async def test_a_list_of_two_thousand(visitor: Visitor, platform: Platform):
    one = await visitor.create(name="real")
    page = visitor.page
    async with copies_of(str(platform.settings.database_url), "real", 1999):
        await visitor.open("sandboxes?sort=name")
        await expect(page.get_by_text("2,000 sandboxes, 1 running")).to_be_visible()
        assert await page.get_by_role("row").count() < 100, (
            "only what is near the visible part is in the document"
        )
        # A row that stays in view keeps its focus, and one that leaves takes its focus along.
        box = page.get_by_role("checkbox", name="Select copy 1009", exact=True)
        await box.hover()
        await box.focus()
        for distance in (520, -520):
            await page.mouse.wheel(0, distance)
            await expect(page.get_by_role("row").filter(has=box)).to_have_attribute("aria-rowindex", "14")
            await expect(box).to_be_focused()
        # Again and again: the wheel's last turn may still be moving the page.
        await page.wait_for_function(
            "() => { scrollTo(0, document.documentElement.scrollHeight);"
            " return [...document.querySelectorAll('a')].some((link) => link.textContent.trim() === 'real') }"
        )
        await expect(page.get_by_role("link", name="real")).to_be_visible()
        assert await page.evaluate("document.activeElement.closest('[role=row]')") is None
        await page.get_by_label("Search").fill("copy 1234")
        # A random id may have these digits too.
        await expect(page.get_by_text(re.compile("^[1-9] of 2,000$"))).to_be_visible()
        await expect(page.get_by_role("row").filter(has_text="copy 1234")).to_have_count(1)
        await page.get_by_label("Search").fill(one)
        await expect(page.get_by_role("link", name="real")).to_be_visible()


async def test_a_session_that_ends_loses_nothing_that_was_typed(visitor: Visitor, platform: Platform):
    page = visitor.page
    await visitor.open("sandboxes/new")
    await page.get_by_label("Name", exact=True).fill("typed before")
    await run_sql(
        str(platform.settings.database_url),
        f"DELETE FROM sessions WHERE user_id = (SELECT id FROM users WHERE email = '{visitor.person.email}')",
    )
    # The event stream may have noticed first: then the dialog is in front of the button already.
    await page.get_by_role("button", name="Create", exact=True).dispatch_event("click")
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("Your session has ended")
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_visible()
    # In another tab, as whoever has no password does.
    async with visitor.context.expect_page() as opening:
        await dialog.get_by_role("link", name="sign in in a new tab").click()
    other = await opening.value
    await other.get_by_label("E-mail address").fill(visitor.person.email)
    await other.get_by_label("Password").fill(PASSWORD)
    await other.keyboard.press("Enter")
    await expect(dialog).to_be_hidden()
    await other.close()
    await expect(page.get_by_label("Name", exact=True)).to_have_value("typed before")
    await page.get_by_role("button", name="Create", exact=True).click()
    await expect(page.get_by_role("heading", name="typed before")).to_be_visible()
    assert all("401" in error for error in visitor.errors), visitor.errors
    visitor.errors.clear()


async def test_a_tab_keeps_its_team(visitor: Visitor, platform: Platform):
    """When somebody signs in again over a page, and when a sandbox still waits for its destruction as the team is switched."""
    page, person = visitor.page, visitor.person
    second = (await person.post("/v1/teams", {"name": "Second"})).json()
    await page.goto(f"{person.url}/t/{second['slug']}/sandboxes/new")
    await page.get_by_label("Name", exact=True).fill("of the second team")
    await run_sql(
        str(platform.settings.database_url),
        f"DELETE FROM sessions WHERE user_id = (SELECT id FROM users WHERE email = '{person.email}')",
    )
    # The event stream may have noticed first: then the dialog is in front of the button already.
    await page.get_by_role("button", name="Create", exact=True).dispatch_event("click")
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Password").fill(PASSWORD)
    await page.keyboard.press("Enter")
    await expect(dialog).to_be_hidden()
    await page.get_by_role("button", name="Create", exact=True).click()
    await expect(page.get_by_role("heading", name="of the second team")).to_be_visible()
    visitor.errors.clear()  # the browser reports the calls without a session

    await page.get_by_role("button", name="Destroy").click()
    await expect(page.get_by_role("row").nth(1)).to_contain_text("destroying")
    await page.get_by_role("combobox", name="Team").select_option(visitor.slug)
    await expect(page.get_by_role("heading", name="Start your first sandbox")).to_be_visible()
    await page.get_by_role("combobox", name="Team").select_option(second["slug"])
    await expect(page).to_have_url(re.compile(second["slug"]))
    await expect(page.get_by_role("heading", name="Start your first sandbox")).to_be_visible()


@dataclass
class Outages:
    """A control plane as a process, to be killed."""

    environment: dict[str, str]
    port: int
    host: AgentHost


@pytest_asyncio.fixture(loop_scope="session")
async def outages(data_dir: Path, pki: Path, template_url: str, tmp_path: Path) -> AsyncIterator[Outages]:
    async with own_database(template_url) as url, agent_host(tmp_path / "agent") as host:
        yield Outages(environment_of(data_dir, url), free_port(), host)


async def test_a_control_plane_that_is_killed_comes_back(browser: Browser, outages: Outages):
    url = f"http://127.0.0.1:{outages.port}"
    async with control_process(outages.environment, outages.port, outages.host) as process:
        person = await sign_up(url)
        async with visit(browser, person) as visitor:
            page = visitor.page
            first = await visitor.create(name="before")
            await visitor.open("sandboxes")
            await page.get_by_role("link", name="before").wait_for()
            process.kill()
            await process.wait_ended()
            await expect(page.get_by_text(re.compile("Not live since"))).to_be_visible()
            await expect(page.get_by_role("link", name="before")).to_be_visible()
            await page.get_by_role("checkbox", name="Select before").check()
            await page.get_by_role("button", name="Pause", exact=True).click()
            await expect(
                page.get_by_text("1 of 1 not paused: The control plane cannot be reached")
            ).to_be_visible()
            async with control_process(outages.environment, outages.port, outages.host):
                await expect(page.get_by_text(re.compile("Not live since"))).to_be_hidden()
                await person.post(f"/v1/sandboxes/{first}/pause")
                await expect(page.get_by_role("row").nth(1)).to_contain_text("paused")
                await expect(page.get_by_text("could not be loaded")).to_have_count(0)
                await expect(page.get_by_role("checkbox", name="Select before")).to_be_checked()
            visitor.errors.clear()  # the browser reports each call that found no server


@pytest.mark.all_looks
async def test_a_database_that_is_killed_comes_back(visitor: Visitor, data_dir: Path):
    """What was typed stays, the page says what fails, and goes on by itself when the database is back."""
    page, listing = visitor.page, await visitor.new_page()
    await visitor.create(name="before")
    await listing.goto(visitor.url("sandboxes"))
    await listing.get_by_role("link", name="before").wait_for()
    await visitor.open("sandboxes/new")
    await page.get_by_label("Name", exact=True).fill("typed before")
    await end(data_dir, signal.SIGQUIT)
    try:
        await page.get_by_role("button", name="Create", exact=True).click()
        await expect(page.get_by_role("alert")).to_contain_text("unavailable")
        await expect(page.get_by_label("Name", exact=True)).to_have_value("typed before")
        await expect(listing.get_by_role("link", name="before")).to_be_visible()
        await listing.get_by_role("link", name="API keys").click()
        await expect(listing.get_by_role("alert")).to_contain_text("could not be loaded")
    finally:
        await ensure_running(data_dir)
    await page.get_by_role("button", name="Create", exact=True).click()
    await expect(page.get_by_role("heading", name="typed before")).to_be_visible()
    # The other tab loads what it could not, without a reload.
    await expect(listing.get_by_text("No API key yet")).to_be_visible()
    await listing.get_by_role("link", name="Sandboxes").click()
    await expect(listing.get_by_role("link", name="typed before")).to_be_visible()
    visitor.errors.clear()  # the browser reports each call that failed


async def test_a_silent_host_is_shown_and_what_was_typed_stays(visitor: Visitor, platform: Platform):
    page, host = visitor.page, platform.host
    sandbox_id = await visitor.create(name="out of reach")
    await visitor.person.post(
        f"/v1/sandboxes/{sandbox_id}/exec", {"cmd": "/bin/sh", "args": ["-c", "echo one > /root/note"]}
    )
    await visitor.open(f"sandboxes/{sandbox_id}/files?path=/root&open=note")
    await page.get_by_role("button", name="Edit").click()
    text = page.get_by_label("Preview").get_by_label("Content")
    await text.fill("typed while it was silent\n")
    host.silence("exec", "files", "stream", "ensure_sandbox")
    await run_sql(
        str(platform.settings.database_url), "UPDATE hosts SET last_heartbeat_at = now() - interval '1 hour'"
    )
    # The state arrives by an event; each action says why it cannot be done, only the end can be asked for.
    await expect(page.get_by_role("banner").or_(page.get_by_role("main"))).to_contain_text("missing")
    await expect(page.get_by_role("button", name="Pause", exact=True)).to_be_disabled()
    await expect(page.get_by_role("button", name="Fork")).to_have_attribute(
        "title", "Its host does not respond."
    )
    await expect(page.get_by_role("button", name="Destroy")).to_be_enabled()
    await expect(text).to_have_value("typed while it was silent\n")

    host.answer_again()
    await expect(page.get_by_role("button", name="Pause", exact=True)).to_be_enabled()
    await expect(text).to_have_value("typed while it was silent\n")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("Saved.")).to_be_visible()
    visitor.errors.clear()  # the browser reports the calls that failed
