"""Files of a sandbox in the browser: browsed, uploaded, read, edited, and never run."""

from __future__ import annotations

import asyncio
import base64
import re
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import FilePayload, Route, expect

from .conftest import Visitor

_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGUlEQVR4nGP4z8BAEiJN9aiGUQ0jRwMAtn7/AZPOTpwAAAAASUVORK5CYII="
)
_DROP = """async (target) => {
  // What Chromium gives for a dropped folder; a script cannot make a DataTransfer that has one.
  const file = (path, text) => ({ isFile: true, isDirectory: false, fullPath: path, file: (done) => done(new File([text], path)) });
  const folder = (path, children) => ({
    isFile: false, isDirectory: true, fullPath: path,
    createReader: () => { const left = [children, []]; return { readEntries: (done) => done(left.shift()) }; },
  });
  const tree = folder('/site', [file('/site/index.txt', 'index'), folder('/site/deep', [file('/site/deep/leaf.txt', 'leaf')])]);
  const event = new DragEvent('drop', { bubbles: true, cancelable: true });
  Object.defineProperty(event, 'dataTransfer', { value: { items: [{ webkitGetAsEntry: () => tree }], types: ['Files'] } });
  target.dispatchEvent(event);
}"""


async def run(visitor: Visitor, sandbox_id: str, script: str) -> str:
    """The output of a shell script in the sandbox."""
    body = {"cmd": "/bin/sh", "args": ["-ec", script]}
    answer = await visitor.person.post(f"/v1/sandboxes/{sandbox_id}/exec", body)
    assert answer.json()["exit_code"] == 0, answer.text
    return answer.json()["stdout"]


async def test_files_are_uploaded_read_edited_renamed_and_deleted(visitor: Visitor):
    page, sandbox_id = visitor.page, await visitor.create(name="files")
    await run(visitor, sandbox_id, "mkdir -p /root/work/sub; ln -s /root/work/sub /root/work/link")
    await visitor.open(f"sandboxes/{sandbox_id}/files?path=/root/work")
    await page.get_by_role("link", name="link, link").click()
    await expect(page.get_by_text("This folder is empty")).to_be_visible()
    await page.get_by_role("navigation", name="Path").get_by_role("link", name="work").click()

    code = "#!/usr/bin/env python3\r\nprint('<b>bold</b>')\r\n"
    await page.get_by_label("Files to upload").set_input_files(
        [
            {"name": "hello.py", "mimeType": "text/x-python", "buffer": code.encode()},
            {"name": "dot.png", "mimeType": "image/png", "buffer": _PNG},
            {"name": "big.bin", "mimeType": "application/octet-stream", "buffer": b"x" * 3_000_000},
        ]
    )
    await expect(page.get_by_label("Uploads")).to_contain_text("3 of 3 files uploaded")
    await page.locator("main").locator("table").evaluate(_DROP)
    await expect(page.get_by_role("link", name="folder, site")).to_be_visible()
    await expect(page.get_by_label("Uploads")).to_contain_text("2 of 2 files uploaded")
    tree = "cd /root/work; cat site/deep/leaf.txt; wc -c < big.bin; wc -c < dot.png"
    assert await run(visitor, sandbox_id, tree) == f"leaf3000000\n{len(_PNG)}\n"

    again: FilePayload = {"name": "hello.py", "mimeType": "text/x-python", "buffer": b"replaced"}
    new: FilePayload = {"name": "new", "mimeType": "text/plain", "buffer": b"new"}
    as_before: FilePayload = {**again, "buffer": code.encode()}
    await page.get_by_label("Files to upload").set_input_files([again, new])
    dialog = page.get_by_role("dialog", name="Replace 1 file?")
    await expect(dialog.get_by_role("listitem")).to_have_text("hello.py")
    await visitor.check_look("files-replace")
    await dialog.get_by_role("button", name="Skip existing files").click()
    await expect(page.get_by_label("Uploads")).to_contain_text("1 of 1 file uploaded")
    assert await run(visitor, sandbox_id, "cd /root/work; cat new; rm new; cat hello.py") == "new" + code
    await page.get_by_label("Files to upload").set_input_files([again])
    await dialog.get_by_role("button", name="Replace").click()
    await expect(page.get_by_label("Uploads")).to_contain_text("1 of 1 file uploaded")
    assert await run(visitor, sandbox_id, "cat /root/work/hello.py") == "replaced"
    await page.get_by_label("Files to upload").set_input_files([as_before])
    await dialog.get_by_role("button", name="Replace").click()

    await page.get_by_role("link", name="hello.py").click()
    preview = page.get_by_label("Preview")
    await expect(preview.get_by_label("Content")).to_contain_text("print('<b>bold</b>')")
    assert await preview.locator("b").count() == 0
    await visitor.check_look("files")
    await preview.get_by_role("button", name="Edit").click()
    await preview.get_by_label("Content").fill("first\nsecond\n")
    await page.keyboard.press("Control+s")
    await expect(page.get_by_text("Saved.")).to_be_visible()
    assert (
        await run(visitor, sandbox_id, "od -c -An /root/work/hello.py | tr -d ' \\n'")
        == r"first\r\nsecond\r\n"
    )
    await preview.get_by_label("Content").fill("mine\n")
    await run(visitor, sandbox_id, "echo theirs > /root/work/hello.py")
    await page.keyboard.press("Control+s")
    await expect(page.get_by_role("dialog", name="The file was changed meanwhile")).to_be_visible()
    await page.get_by_role("button", name="Load it, discard mine").click()
    await expect(preview.get_by_label("Content")).to_have_value("theirs\n")
    await preview.get_by_role("button", name="Close the editor").click()

    await page.get_by_role("link", name="dot.png").click()
    await expect(preview.get_by_role("img", name="dot.png")).to_be_visible()
    await page.get_by_role("link", name="big.bin").click()
    await expect(preview).to_contain_text("larger than 2 MiB")
    async with page.expect_download() as download:
        await preview.get_by_role("button", name="Download").click()
    saved = await download.value
    assert saved.suggested_filename == "big.bin"
    assert (await saved.path()).stat().st_size == 3_000_000

    await page.get_by_role("button", name="Actions on dot.png").click()
    await page.get_by_role("menuitem", name="Rename").click()
    await page.get_by_label("Name", exact=True).fill("big.bin")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("something of this name already")
    await page.get_by_label("Name", exact=True).fill("point.png")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("link", name="point.png")).to_be_visible()
    await page.get_by_role("button", name="Actions on site").click()
    await page.get_by_role("menuitem", name="Delete").click()
    await page.get_by_role("button", name="Delete", exact=True).click()
    await expect(page.get_by_role("link", name="folder, site")).to_have_count(0)
    left = await run(visitor, sandbox_id, "ls /root/work")
    assert left.split() == ["big.bin", "hello.py", "link", "point.png", "sub"]
    # Existence is asked by a call that the browser reports as failed.
    visitor.errors[:] = [error for error in visitor.errors if "404" not in error]


async def test_a_folder_is_followed_while_it_is_shown(visitor: Visitor):
    page, sandbox_id = visitor.page, await visitor.create()
    await visitor.open(f"sandboxes/{sandbox_id}/files?path=/root")
    await expect(page.get_by_text("This folder is empty")).to_be_visible()
    async with page.expect_response(re.compile("/files/watch")):
        await page.reload()
    await run(visitor, sandbox_id, "echo 1 > /root/'new\u202efile'")
    link = page.get_by_role("link", name="new⟨U+202E⟩file")
    await link.click()
    await expect(page.get_by_label("Content")).to_have_text("1\n")
    await run(visitor, sandbox_id, "echo '<script>document.title = 1</script>' > /root/'new\u202efile'")
    await expect(page.get_by_label("Content")).to_contain_text("<script>document.title = 1</script>")
    await run(visitor, sandbox_id, "rm /root/new*")
    await expect(page.get_by_text("There is no such file")).to_be_visible()
    assert parse_qs(urlsplit(page.url).query)["path"] == ["/root"]
    await visitor.person.post(f"/v1/sandboxes/{sandbox_id}/pause")
    await expect(page.get_by_text("The sandbox does not run")).to_be_visible()


async def test_what_is_typed_outlives_a_save_a_pause_and_the_file(visitor: Visitor):
    page, sandbox_id = visitor.page, await visitor.create()
    await run(visitor, sandbox_id, "echo one > /root/note")
    await visitor.open(f"sandboxes/{sandbox_id}/files?path=/root&open=note")
    preview = page.get_by_label("Preview")
    text, save = preview.get_by_label("Content"), preview.get_by_role("button", name="Save")
    await preview.get_by_role("button", name="Edit").click()

    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        arrived.set()
        await go_on.wait()
        await route.continue_()

    await page.route(re.compile("/files/write$"), hold)
    await text.fill("two\n")
    await page.keyboard.press("Control+s")
    await asyncio.wait_for(arrived.wait(), 10)
    await text.fill("two\nthree\n")
    go_on.set()
    await expect(page.get_by_text("Saved.")).to_be_visible()
    await expect(preview.get_by_role("status")).to_contain_text("Not saved")
    assert await run(visitor, sandbox_id, "cat /root/note") == "two\n"

    await visitor.person.post(f"/v1/sandboxes/{sandbox_id}/pause")
    await expect(page.get_by_text("The sandbox does not run")).to_be_visible()
    await expect(text).to_have_value("two\nthree\n")
    await expect(save).to_have_attribute("title", "The sandbox does not run.")
    await visitor.check_look("files-paused")
    await page.get_by_role("button", name="Resume", exact=True).last.click()
    await expect(page.get_by_role("table")).to_be_visible()
    await expect(text).to_have_value("two\nthree\n")

    await run(visitor, sandbox_id, "rm /root/note; touch -d @99999999999999 /root/later || touch /root/later")
    await expect(page.get_by_role("link", name="later")).to_be_visible()
    await expect(page.get_by_role("link", name="note")).to_have_count(0)
    await expect(text).to_have_value("two\nthree\n")
    await save.click()
    await page.get_by_role("button", name="Save mine over it").click()
    await expect(preview.get_by_role("status")).to_have_text("")
    assert await run(visitor, sandbox_id, "cat /root/note") == "two\nthree\n"
    # Existence is asked by a call that the browser reports as failed; so is a list that is asked for while the sandbox pauses.
    visitor.errors[:] = [error for error in visitor.errors if not re.search("404|409", error)]


@pytest.mark.all_looks
async def test_what_is_typed_outlives_the_sandbox(visitor: Visitor):
    page, sandbox_id = visitor.page, await visitor.create()
    await run(visitor, sandbox_id, "echo one > /root/note")
    await visitor.open(f"sandboxes/{sandbox_id}/files?path=/root&open=note")
    preview = page.get_by_label("Preview")
    await preview.get_by_role("button", name="Edit").click()
    await preview.get_by_label("Content").fill("typed for an hour\n")
    await visitor.person.delete(f"/v1/sandboxes/{sandbox_id}")
    await expect(page.get_by_role("main")).to_contain_text("This sandbox does not exist")
    await expect(preview.get_by_label("Content")).to_have_value("typed for an hour\n")
    await expect(preview.get_by_role("button", name="Save")).to_have_attribute(
        "title", "The sandbox does not exist any more."
    )
    await visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await preview.get_by_role("button", name="Copy the text").click()
    await expect(page.get_by_text("Copied.")).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == "typed for an hour\n"
    page.on("dialog", lambda dialog: dialog.accept())
    await preview.get_by_role("button", name="Discard").click()
    await expect(preview).to_have_count(0)
    visitor.errors[:] = [error for error in visitor.errors if "404" not in error]


async def test_an_upload_asks_about_a_file_that_appeared_meanwhile(visitor: Visitor):
    page, sandbox_id = visitor.page, await visitor.create()
    await visitor.open(f"sandboxes/{sandbox_id}/files?path=/root")
    await expect(page.get_by_text("This folder is empty")).to_be_visible()

    async def listed_before(route: Route) -> None:
        """The answer to the page's first look, given after a program has written the file."""
        answer = await route.fetch()
        await run(visitor, sandbox_id, "echo theirs > /root/report.txt")
        await route.fulfill(response=answer)

    report: FilePayload = {"name": "report.txt", "mimeType": "text/plain", "buffer": b"mine"}
    uploads = page.get_by_label("Uploads")
    for choice, content in (("Leave as it is", "theirs\n"), ("Replace", "mine")):
        await run(visitor, sandbox_id, "rm -f /root/report.txt")
        await expect(page.get_by_role("link", name="report.txt")).to_have_count(0)
        await page.route(re.compile("/files/list$"), listed_before, times=1)
        await page.get_by_label("Files to upload").set_input_files([report])
        await expect(uploads.get_by_role("alert")).to_contain_text("report.txt")
        assert await run(visitor, sandbox_id, "cat /root/report.txt") == "theirs\n"
        await uploads.get_by_role("button", name=choice).click()
        await expect(uploads.get_by_role("alert")).to_have_count(0)
        if choice == "Replace":
            await expect(uploads).to_contain_text("1 of 1 file uploaded")
        assert await run(visitor, sandbox_id, "cat /root/report.txt") == content
    visitor.errors[:] = [error for error in visitor.errors if "404" not in error]
