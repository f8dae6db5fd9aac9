"""Terminals of a sandbox in the browser: typed into, found again after a reload, and safe against what programs write."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import Locator, Page, WebSocketRoute, expect

from wrenn.control.dashboard.built_files import BUILT

from .conftest import DEADLINE_MS, Visitor

_PASTE = """text => {
  const data = new DataTransfer();
  data.setData('text/plain', text);
  const target = document.activeElement;
  target.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true }));
}"""


def shown(page: Page) -> Locator:
    """The terminal that is shown."""
    return page.get_by_role("tabpanel").filter(visible=True)


async def opened(visitor: Visitor, sandbox_id: str) -> Locator:
    """The page of the terminals with one that is connected; its text."""
    await visitor.open(f"sandboxes/{sandbox_id}/terminal")
    await connected(visitor.page)
    return shown(visitor.page).locator(".xterm-rows")


async def tags(visitor: Visitor, sandbox_id: str) -> list[str]:
    """The tags of the processes in a sandbox."""
    answer = await visitor.person.get(f"/v1/sandboxes/{sandbox_id}/processes")
    return [process["tag"] for process in answer.json()["processes"]]


async def connected(page: Page) -> None:
    await expect(shown(page)).to_have_attribute("data-state", "open")
    await expect(shown(page).locator(".xterm-rows")).to_contain_text("#")


async def test_a_terminal_is_found_again_after_a_reload(visitor: Visitor):
    page, sandbox_id = visitor.page, await visitor.create(name="shells")
    text = await opened(visitor, sandbox_id)
    await page.keyboard.type("echo sum-$((40 + 2)); colour=green\n")
    await expect(text).to_contain_text("sum-42")
    # A query of a program, which the emulator answers by typing: only once, and not when it is drawn again after the reload.
    await page.keyboard.type("read -rsn 7 -p $'\\e[c' answer; echo got-${#answer}-bytes\n")
    await expect(text).to_contain_text("got-7-bytes")
    tag = parse_qs(urlsplit(page.url).query)["tag"][0]
    await visitor.check_look("terminal")

    await page.reload()
    await connected(page)
    await expect(text).to_contain_text("sum-42")
    assert parse_qs(urlsplit(page.url).query)["tag"] == [tag]
    await page.keyboard.type("echo still-$colour\n")
    await expect(text).to_contain_text("still-green")
    await expect(text).not_to_contain_text("1;2c")

    await page.get_by_role("button", name="New terminal").click()
    await connected(page)
    await page.keyboard.type("echo other-$colour-shell\n")
    await expect(shown(page).locator(".xterm-rows")).to_contain_text("other--shell")
    await page.keyboard.press("Control+F6")
    await expect(page.get_by_role("button", name="New terminal")).to_be_focused()

    await page.get_by_role("button", name="Close Terminal 2").click()
    await page.get_by_role("button", name="End it").click()
    await expect(page.get_by_role("tabpanel")).to_have_count(1)
    # Its shell is sent a hangup, and ends a moment later.
    async with asyncio.timeout(DEADLINE_MS / 1000):
        while await tags(visitor, sandbox_id) != [tag]:
            await asyncio.sleep(0.1)


@pytest.mark.all_looks
async def test_a_terminal_shows_how_much_output_was_discarded(visitor: Visitor):
    page, sandbox_id = visitor.page, await visitor.create()
    text = await opened(visitor, sandbox_id)
    await page.keyboard.type("head -c 3000000 /dev/zero | tr '\\0' y; clear; echo at-the-$((1))-end\n")
    await expect(text).to_contain_text("at-the-1-end")
    await page.reload()
    await connected(page)
    await expect(text).to_contain_text("at-the-1-end")
    await expect(shown(page).get_by_role("status")).to_contain_text(re.compile(r"1,\d{3},\d{3} bytes missed"))


async def test_output_and_pasted_text_do_nothing_without_a_question(visitor: Visitor):
    page, sandbox_id = visitor.page, await visitor.create()
    text = await opened(visitor, sandbox_id)
    await page.evaluate(_PASTE, "echo one; ")
    await page.evaluate(_PASTE, "echo two\x1b[201~\necho three\n")
    dialog = page.get_by_role("dialog", name="Paste 2 lines?")
    await expect(dialog).to_contain_text("echo two⟨U+001B⟩[201~")
    await dialog.get_by_role("button", name="Cancel").click()
    await page.keyboard.type("echo fo''ur\n")
    await expect(text).to_contain_text("four")
    await expect(text).not_to_contain_text("three")
    await page.evaluate(_PASTE, "echo fi''ve\n: \n")
    await page.get_by_role("button", name="Paste").click()
    await page.keyboard.press("Enter")
    await expect(text).to_contain_text("five")

    count = 2**31 - 1  # would keep the page busy for hours
    await page.keyboard.type(rf"clear; printf 'x\e[{count}b\e[{count}S\e[{count}Lo''k\n'" + "\n")
    await expect(text).to_contain_text("xok")

    title, pages = await page.title(), list(visitor.context.pages)
    osc = r"'\e]0;owned\a\e]52;c;b3duZWQ=\a\e]8;;javascript:alert(1)\a''bad-link\e]8;;\a\n\e]8;;https://example.org/\u202e''x\a''good-link\e]8;;\a\n'"
    await page.keyboard.type(f"clear; printf {osc}\n")
    await expect(text).to_contain_text("good-link")
    assert await page.title() == title
    for name in ("bad-link", "good-link"):
        row = text.locator("div").filter(has_text=re.compile(f"^{name}")).last
        box = await row.bounding_box()
        assert box is not None
        await page.mouse.move(box["x"] + 20, box["y"] + box["height"] / 2)
        await page.mouse.click(box["x"] + 25, box["y"] + box["height"] / 2)
        question = page.get_by_role("dialog", name="Open this link?")
        if name == "bad-link":
            await expect(question).to_have_count(0)
        else:
            await expect(question).to_contain_text("leads to example.org")
            await question.get_by_role("button", name="Cancel").click()
    assert visitor.context.pages == pages


async def test_a_lost_connection_is_made_again_and_nothing_is_shown_twice(visitor: Visitor):
    page, sandbox_id = visitor.page, await visitor.create()
    sockets: list[WebSocketRoute] = []

    def through(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        if len(sockets) != 3:
            socket.connect_to_server()

    await page.route_web_socket(re.compile("/pty$"), through)
    text = await opened(visitor, sandbox_id)
    await page.keyboard.type("for i in 1 2 3; do echo line-$i-end; sleep 1; done\n")
    await expect(text).to_contain_text("line-1-end")
    await sockets[0].close()
    await expect(text).to_contain_text("line-3-end")
    await connected(page)
    assert len(sockets) == 2
    assert (await text.inner_text()).count("line-1-end") == 1
    # The third connection leads nowhere; a key makes the fourth, and is not sent itself.
    await sockets[1].close()
    await expect(shown(page)).to_have_attribute("data-state", "connecting")
    await sockets[2].close()
    await expect(shown(page)).to_have_attribute("data-state", "lost")
    await page.keyboard.press("q")
    await connected(page)
    await page.keyboard.type("echo a''gain\n")
    await expect(text).to_contain_text("again")
    assert "qecho" not in await text.inner_text()


async def test_a_terminal_says_that_its_sandbox_is_paused_and_resumes_it(visitor: Visitor):
    page, sandbox_id = visitor.page, await visitor.create()
    text = await opened(visitor, sandbox_id)
    await page.keyboard.type("echo be''fore\n")
    await expect(text).to_contain_text("before")
    await visitor.person.post(f"/v1/sandboxes/{sandbox_id}/pause")
    await expect(shown(page)).to_have_attribute("data-state", "suspended")
    await expect(text).to_contain_text("before")
    await page.keyboard.type("ignored")
    assert (await visitor.person.get(f"/v1/sandboxes/{sandbox_id}")).json()["status"] == "paused"
    await page.reload()
    await page.get_by_role("button", name="Resume and attach").click()
    # Simulated machines have no memory to keep, so there is no terminal to find, and a new one is opened.
    await connected(page)


async def test_a_part_that_is_missing_after_an_update_of_the_server_is_reported(visitor: Visitor):
    page, sandbox_id = visitor.page, await visitor.create()
    emulators = [path.name for path in (BUILT / "_app").rglob("*.js") if "xterm-helper" in path.read_text()]
    await page.route(re.compile("|".join(map(re.escape, emulators))), lambda route: route.fulfill(status=404))
    await visitor.open(f"sandboxes/{sandbox_id}/terminal")
    await expect(page.get_by_role("alert")).to_contain_text("load the page again")
    await page.unroute_all()
    visitor.errors.clear()
    await page.get_by_role("button", name="Try again").click()
    await connected(page)
