"""Statistics of a team: present figures, peaks, series, limits, usage."""

from __future__ import annotations

import re

from playwright.async_api import expect
from sqlalchemy import text

from tests.integration.conftest import Platform
from wrenn.base.ids import TeamId
from wrenn.control.metrics import team_store
from wrenn.control.metrics.tables import PLATFORM

from .conftest import Visitor


async def test_figures_follow_the_sandboxes_and_charts_have_a_past(visitor: Visitor, platform: Platform):
    page = visitor.page
    await visitor.open("stats")
    running = page.get_by_role("region", name="Running sandboxes", exact=True)
    await expect(running).to_contain_text("0")

    await platform.control.database.execute(
        text(
            "INSERT INTO team_samples (team_id, at, covers_ms, running_count, vcpus, memory_mb, disk_mb)"
            " SELECT team, now() - make_interval(secs => ago), 10000, 3 + ago / 10 % 5, 8, 4096, 10240"
            # No control plane from 30 to 20 minutes ago.
            " FROM generate_series(20, 3000, 10) AS ago, unnest(CAST(:teams AS uuid[])) AS team"
            " WHERE ago NOT BETWEEN 1200 AND 1800"
        ),
        {"teams": [TeamId.parse(visitor.person.team_id).value, PLATFORM]},
    )
    await visitor.create(vcpus=2, memory_mb=1024)
    await expect(running.get_by_role("definition").first).to_have_text("1")  # by an event
    await expect(page.get_by_role("region", name="vCPUs", exact=True)).to_contain_text("Peak, 30 days")
    await expect(
        page.get_by_role("region", name="vCPUs", exact=True).get_by_role("definition").nth(1)
    ).to_have_text("8")
    await expect(page.get_by_role("img", name="a chart")).to_have_count(3)
    await expect(page.get_by_text("Shaded: nothing was measured")).to_be_visible()
    await expect(page.get_by_text("Limits of the team")).to_be_visible()
    chart = page.get_by_role("region", name="vCPUs over time")
    await chart.get_by_text("Table", exact=True).click()
    await expect(chart.get_by_role("row").nth(5).get_by_role("cell").last).to_have_text("8")
    await visitor.check_look("stats")

    ranges = page.get_by_role("navigation", name="Range")
    await ranges.get_by_role("link", name="30d").click()
    await expect(page).to_have_url(visitor.url("stats?range=30d"))
    await page.reload()
    await expect(ranges.get_by_role("link", name="30d")).to_have_attribute("aria-current", "true")
    await expect(page.get_by_text("Usage of the last 30 days")).to_be_visible()


async def test_present_figures_count_paused_sandboxes_and_the_sampler_keeps_them(
    visitor: Visitor, platform: Platform
):
    page = visitor.page
    await visitor.open("stats?range=5m")
    figures = {
        name: page.get_by_role("region", name=name, exact=True).get_by_role("definition")
        for name in ("Running sandboxes", "vCPUs", "Memory")
    }
    await visitor.create(vcpus=2, memory_mb=1024)
    paused = await visitor.create(vcpus=1, memory_mb=513)
    await expect(figures["Running sandboxes"].first).to_have_text("2")
    await visitor.person.post(f"/v1/sandboxes/{paused}/pause")
    # A paused sandbox has no vCPU and half of its memory, rounded up: 1024 + 257.
    await expect(figures["Running sandboxes"].first).to_have_text("1")
    await expect(figures["vCPUs"].first).to_have_text("2")
    await expect(figures["Memory"].first).to_have_text("1.3 GiB")
    before = await figures["Memory"].nth(1).text_content()

    # What the platform's sampler stores of it is the peak, and the newest value of each chart.
    await team_store.take_samples(platform.control.database, longest_s=60.0)
    await page.reload()
    await expect(figures["vCPUs"].nth(1)).to_have_text(re.compile("^[23]$"))
    await expect(figures["Memory"].nth(1)).not_to_have_text("0 B")
    assert before is not None
    newest = {"Sandboxes over time": "1", "vCPUs over time": "2", "Memory over time": "1.3 GiB"}
    for title, value in newest.items():
        chart = page.get_by_role("region", name=title)
        await chart.get_by_text("Table", exact=True).click()
        await expect(chart.get_by_role("row").nth(1).get_by_role("cell").last).to_have_text(value)
