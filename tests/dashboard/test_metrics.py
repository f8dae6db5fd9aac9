"""Charts of what a sandbox uses."""

from __future__ import annotations

import re

from playwright.async_api import expect

from .conftest import Visitor


async def test_metrics_are_drawn_go_on_and_stay_after_a_pause(visitor: Visitor):
    page, sandbox_id = visitor.page, await visitor.create(name="measured")
    await visitor.open(f"sandboxes/{sandbox_id}/metrics?range=5m")
    charts = page.get_by_role("img", name="a chart")
    await expect(charts).to_have_count(4)
    cpu = page.get_by_role("region", name="CPU")
    await cpu.get_by_text("Table", exact=True).click()
    rows = cpu.get_by_role("row")
    await expect(rows.nth(2)).to_contain_text("%")
    count = await rows.count()
    await expect(rows.nth(count + 1)).to_be_visible()  # points arrive while the page is open
    # A double click shows all of the range, not only the seconds that have points: its middle is before the first of them.
    first = await rows.last.get_by_role("cell").first.text_content()
    plot = charts.first.locator(".u-over")
    await plot.dblclick()
    await expect(rows.nth(await rows.count() + 1)).to_be_visible()
    await plot.hover(position={"x": 200, "y": 20})
    await expect(cpu.locator("p")).to_have_text(first or "")
    await charts.nth(1).focus()
    await page.keyboard.press("End")
    await page.keyboard.press("ArrowLeft")
    # The cursors of all charts move together, and each tells its time.
    for name in ("Memory", "Disk", "Network"):
        await expect(page.get_by_role("region", name=name).get_by_text("202").last).to_be_visible()
    await visitor.check_look("metrics")

    await visitor.person.post(f"/v1/sandboxes/{sandbox_id}/pause")
    await expect(page.get_by_text("It does not run")).to_be_visible()
    # Each range is answered from the tier that has it, with what was stored at the pause.
    ranges = page.get_by_role("navigation", name="Range")
    for name in ("1h", "2h", "6h", "12h", "24h", "10m"):
        path = f"/v1/sandboxes/{sandbox_id}/metrics?range={name}"
        async with page.expect_response(lambda answer, path=path: answer.url.endswith(path)) as answering:
            await ranges.get_by_role("link", name=name, exact=True).click()
        points = (await (await answering.value).json())["points"]
        assert points
        await expect(page).to_have_url(re.compile(f"range={name}$"))
        await expect(ranges.get_by_role("link", name=name, exact=True)).to_have_attribute(
            "aria-current", "true"
        )
        await expect(charts).to_have_count(4)
