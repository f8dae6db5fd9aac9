"""Processes, ports and activity of a sandbox in the browser."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import urlsplit

from playwright.async_api import Route, expect

from tests.integration.conftest import Platform, client
from tests.integration.test_control_inspection import console_of
from wrenn.testing.server import free_port

from .conftest import DEADLINE_MS, Visitor

# After this time the pages have asked again.
REFRESH_MS = 5_000


async def start(visitor: Visitor, sandbox_id: str, script: str, tag: str) -> None:
    """Start a shell script in the background."""
    body = {"cmd": "/bin/sh", "args": ["-c", script], "background": True, "tag": tag}
    answer = await visitor.person.post(f"/v1/sandboxes/{sandbox_id}/exec", body)
    assert answer.status_code < 300, answer.text


async def listening(visitor: Visitor, sandbox_id: str, port: int) -> None:
    """Wait until a program in the sandbox listens on this port."""
    async with asyncio.timeout(DEADLINE_MS / 1000):
        while True:
            ports = (await visitor.person.get(f"/v1/sandboxes/{sandbox_id}/ports")).json()["ports"]
            if any(each["port"] == port for each in ports):
                return
            await asyncio.sleep(0.1)


async def test_a_process_is_found_followed_and_ended(visitor_with_own_profile: Visitor):
    visitor = visitor_with_own_profile
    page, sandbox_id = visitor.page, await visitor.create(name="workers")
    await start(
        visitor,
        sandbox_id,
        "while :; do printf '\\033[31mtick\\033[0m <b>\\n'; sleep 1; done",
        "ticker",
    )
    await start(visitor, sandbox_id, "exec sleep 1000", "other")
    await visitor.open(f"sandboxes/{sandbox_id}/processes")
    await page.get_by_label("Search").fill("ticker")
    row = page.get_by_role("row").filter(has_text="ticker")
    await row.get_by_role("button", name="Output").click()
    output = page.get_by_role("region", name="Output of")
    await expect(output).to_contain_text("tick <b>\ntick <b>\n")
    await page.clock.fast_forward(REFRESH_MS)
    await expect(row).to_contain_text(re.compile(r"\d %"))
    await visitor.check_look("processes")
    await page.reload()
    await expect(output).to_contain_text("tick <b>\n")
    await row.get_by_role("button", name="Send a signal").click()
    await page.get_by_role("menuitem", name="SIGKILL").click()
    await expect(output).to_contain_text("ended by SIGKILL")
    await page.clock.fast_forward(REFRESH_MS)
    await expect(page.get_by_text("No process matches")).to_be_visible()
    await page.get_by_label("Search").fill("serve --listen")
    await expect(page.get_by_role("button", name="Signal")).to_have_attribute("aria-disabled", "true")


async def test_programs_with_one_tag_and_a_fault_of_a_page_leave_the_rest_usable(visitor: Visitor):
    page, sandbox_id = visitor.page, await visitor.create(name="twins")
    for _ in range(2):
        await start(visitor, sandbox_id, "exec sleep 1000", "worker")
    await visitor.open(f"sandboxes/{sandbox_id}/terminal?tag=worker")
    await expect(page.get_by_role("button", name="Close worker")).to_have_count(1)
    assert visitor.errors == []

    async def twice(route: Route) -> None:
        answer = await route.fetch()
        found = await answer.json()
        await route.fulfill(response=answer, json={**found, "processes": found["processes"] * 2})

    # Rows with equal keys stop Svelte; the control plane sends none.
    await page.route("**/processes/all", twice)
    await page.get_by_role("link", name="Processes").click()
    await expect(page.get_by_role("alert")).to_contain_text("a fault in the dashboard")
    assert any("each_key_duplicate" in error for error in visitor.errors)
    visitor.errors.clear()
    await page.unroute("**/processes/all")
    await page.get_by_role("link", name="Sandboxes", exact=True).click()
    await expect(page.get_by_role("row")).to_have_count(2)
    await page.get_by_role("link", name="twins").click()
    await expect(page.get_by_role("heading", name="twins")).to_be_visible()


async def test_a_port_is_opened_by_a_link(visitor_with_own_profile: Visitor):
    visitor = visitor_with_own_profile
    page, sandbox_id, port = visitor.page, await visitor.create(name="web"), free_port()
    await visitor.open(f"sandboxes/{sandbox_id}/ports")
    await expect(page.get_by_role("button", name="Open").first).to_be_visible()
    program = f"mkdir -p /srv/web; echo from-the-sandbox > /srv/web/index.html; exec python3 -m http.server -d /srv/web {port}"
    await start(visitor, sandbox_id, program, "web")
    await listening(visitor, sandbox_id, port)
    await page.clock.fast_forward(REFRESH_MS)
    row = page.get_by_role("row").filter(has_text=str(port))
    await expect(row).to_contain_text("python3")
    await visitor.check_look("ports")
    async with visitor.context.expect_page() as opening:
        await row.get_by_role("button", name="Open").click()
    opened = await opening.value
    await expect(opened.locator("body")).to_contain_text("from-the-sandbox")
    assert await opened.evaluate("[window.opener, document.referrer]") == [None, ""]
    assert "wrenn_link" not in opened.url

    # For everybody, and for the team only again.
    host = {"Host": urlsplit(opened.url).netloc}
    async with client(visitor.person.url, None) as nobody:
        assert (await nobody.get("/", headers=host)).status_code == 401
        await row.get_by_role("button", name=f"Make public: {port}").click()
        await page.get_by_role("dialog").get_by_role("button", name="Make public").click()
        await expect(row).to_contain_text("everybody")
        answer = await nobody.get("/", headers=host)
        assert (answer.status_code, answer.text.strip()) == (200, "from-the-sandbox")
        # Somebody else opens another port meanwhile; closing this one leaves that as it is.
        await visitor.person.patch(f"/v1/sandboxes/{sandbox_id}", {"add_public_ports": [9]})
        await row.get_by_role("button", name=f"Make private: {port}").click()
        await expect(row).not_to_contain_text("everybody")
        assert (await nobody.get("/", headers=host)).status_code == 401
    await page.get_by_role("link", name="Overview").click()
    facts = page.locator("dt", has_text="Public ports").locator("+ dd")
    await expect(facts).to_have_text("9")
    await visitor.person.patch(f"/v1/sandboxes/{sandbox_id}", {"public_ports": []})
    await expect(facts).to_have_text("none")


async def test_activity_shows_what_was_done_with_the_sandbox(visitor: Visitor):
    page, sandbox_id = visitor.page, await visitor.create(name="watched")
    await visitor.create(name="another")
    await visitor.open(f"sandboxes/{sandbox_id}/activity")
    rows = page.get_by_role("row").filter(has_text=sandbox_id)
    await expect(rows).to_have_count(1)
    await visitor.person.post(f"/v1/sandboxes/{sandbox_id}/pause")
    await expect(rows.filter(has_text="sandbox pause")).to_be_visible()
    await visitor.check_look("activity")


async def test_the_console_is_shown_as_text(visitor_with_own_profile: Visitor, platform: Platform):
    visitor = visitor_with_own_profile
    page, sandbox_id = visitor.page, await visitor.create(name="with a console")
    log = console_of(platform, sandbox_id)
    log.write_text("booted\n")
    await visitor.open(f"sandboxes/{sandbox_id}/console")
    console = page.get_by_label("Console", exact=True)
    await expect(console).to_contain_text("booted")
    with log.open("a") as file:
        file.write("\x1b]0;title\x07\x1b[31mOops\x1b[0m <img src=x onerror=alert(1)>\u202e\n" * 200)
    await page.clock.fast_forward(REFRESH_MS)
    await expect(console).to_contain_text("Oops <img src=x onerror=alert(1)>⟨U+202E⟩")
    assert await console.locator("img").count() == 0
    await visitor.check_look("console")
    await visitor.person.post(f"/v1/sandboxes/{sandbox_id}/pause")
    await expect(page.get_by_text("The sandbox does not run")).to_be_visible()
