"""Templates, and builds with their log while they run."""

from __future__ import annotations

import re

from playwright.async_api import expect

from .conftest import Visitor, path_of


async def test_a_build_from_its_form_to_a_sandbox(visitor: Visitor):
    page = visitor.page
    await visitor.open("builds")
    await page.get_by_role("link", name="Build a template").click()
    await page.get_by_label("Name of the template").fill("hello")
    await page.get_by_label("Tag").fill("v1")
    await page.get_by_label("Dockerfile", exact=True).fill(
        'FROM template://minimal\nRUN printf "\\033[31mred\\033[0m <b>not bold</b>\\n"\nRUN echo second\nCMD ["sleep", "600"]\n'
    )
    await page.get_by_role("button", name="Build", exact=True).click()
    await expect(page.get_by_role("heading", name="hello:v1")).to_be_visible()
    steps = page.get_by_role("region", name="Steps")
    await expect(page.get_by_role("link", name="Start a sandbox")).to_be_visible()
    await expect(steps.get_by_text("done")).to_have_count(3)
    await steps.get_by_role("button", name="RUN printf").click()
    await expect(steps.get_by_label("Output of step 1")).to_have_text("red <b>not bold</b>\n")
    build_id = path_of(page).rpartition("/")[2]
    build = (await visitor.person.get(f"/v1/builds/{build_id}")).json()
    assert (build["status"], build["is_dockerfile"]) == ("success", True)

    await page.get_by_role("link", name="New version").click()
    await expect(page.get_by_label("Name of the template")).to_have_value("hello")
    await expect(page.get_by_label("Dockerfile", exact=True)).to_have_value(re.compile("RUN echo second"))

    await visitor.open("templates")
    row = page.get_by_role("row").filter(has_text="hello")
    await expect(row).to_contain_text("v1")
    await row.get_by_role("button", name="Tag").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Tag").fill("not a tag")
    await expect(dialog.get_by_role("button", name="Set the tag")).to_be_disabled()
    await dialog.get_by_label("Tag").fill("stable")
    await dialog.get_by_role("button", name="Set the tag").click()
    await expect(row).to_contain_text("stable")
    # Its page: a tag is removed again, but not the last one.
    await row.get_by_role("link", name="hello").click()
    tags = page.get_by_role("region", name="Tags")
    await expect(tags).to_contain_text("stable")
    await expect(page.get_by_role("main")).to_contain_text("Starts from saved memory")
    await visitor.check_look("template")
    for tag in ("stable", "latest"):
        await tags.get_by_role("button", name=f"Remove the tag {tag}").click()
        await expect(tags.get_by_text(tag, exact=True)).to_have_count(0)
    await expect(tags.get_by_role("button", name="Remove the tag v1")).to_be_disabled()
    await tags.get_by_role("button", name="Add a tag").click()
    await page.get_by_role("dialog").get_by_label("Tag").fill("latest")
    await page.get_by_role("dialog").get_by_role("button", name="Set the tag").click()
    await expect(tags).to_contain_text("latest")
    (found,) = [
        each for each in (await visitor.person.get("/v1/templates")).json() if each["name"] == "hello"
    ]
    assert sorted(found["tags"]) == ["latest", "v1"]
    await page.get_by_role("main").get_by_role("link", name="Templates").click()
    protected = page.get_by_role("row").filter(has_text="minimal").get_by_role("button", name="Delete")
    await expect(protected).to_be_disabled()
    await expect(protected).to_have_attribute("title", re.compile("all teams use it"))
    await row.get_by_role("link", name="Start").click()
    await expect(page.get_by_label("Template", exact=True)).to_have_value("hello")
    await visitor.open("templates")
    await row.get_by_role("button", name="Delete").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(row).to_have_count(0)


async def test_a_failed_build_says_why_and_a_running_one_is_cancelled(visitor: Visitor):
    page = visitor.page
    broken = await visitor.person.post(
        "/v1/builds",
        {
            "name": "broken",
            "skip_pre_post": True,
            "recipe": ["RUN echo before", "RUN echo the-reason >&2; exit 3"],
        },
    )
    await visitor.open(f"builds/{broken.json()['id']}")
    await expect(page.get_by_role("alert")).to_be_visible()
    steps = page.get_by_role("region", name="Steps")
    await expect(steps).to_contain_text("exit 3")
    await expect(steps).to_contain_text("the-reason")  # the failed step is open

    slow = await visitor.person.post(
        "/v1/builds", {"name": "slow", "skip_pre_post": True, "recipe": ["RUN echo begun; sleep 25"]}
    )
    await visitor.open(f"builds/{slow.json()['id']}")
    await expect(steps).to_contain_text("begun")
    # The stream is cut: the page goes on where it was, and repeats nothing.
    await visitor.context.set_offline(True)
    await page.wait_for_timeout(700)
    await visitor.context.set_offline(False)
    await page.get_by_role("button", name="Cancel").click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel the build").click()
    await expect(page.get_by_role("main").get_by_text("cancelled")).to_be_visible()
    await expect(steps.get_by_text("begun", exact=True)).to_have_count(1)
    visitor.errors.clear()  # the browser itself reports that it was offline

    await visitor.open("builds")
    await expect(page.get_by_role("row").filter(has_text="slow")).to_contain_text("cancelled")
    third = await visitor.person.post(
        "/v1/builds", {"name": "third", "dockerfile": "FROM template://minimal\nRUN false\n"}
    )
    assert third.status_code == 201
    await expect(page.get_by_role("row").filter(has_text="third")).to_contain_text("failed")


async def test_a_recipe_that_is_refused_keeps_what_was_typed(visitor: Visitor):
    page = visitor.page
    await visitor.open("builds/new")
    await page.get_by_label("Name of the template").fill("wrong")
    await page.get_by_label("Dockerfile", exact=True).fill("FROM template://minimal\nTELEPORT /x\n")
    await page.get_by_role("button", name="Build", exact=True).click()
    await expect(page.get_by_role("alert")).to_contain_text("line 2")
    await expect(page.get_by_label("Dockerfile", exact=True)).to_have_value(re.compile("TELEPORT"))
    visitor.errors.clear()  # the browser itself reports the 400
