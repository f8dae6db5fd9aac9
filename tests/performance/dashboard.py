"""How quick the dashboard is in Chromium: first paint, change of page, an event until its row shows it, a list of 2,000.

`python -m tests.performance.dashboard` runs this alone, with a control plane and an agent over the simulated driver in this process.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import async_playwright, expect

from tests.dashboard.conftest import CHROMIUM, QUIET, Visitor, visit
from tests.dashboard.many_sandboxes import copies_of
from tests.integration.conftest import Platform, platform_on_a_database_of_its_own, run_sql
from tests.integration.people import sign_up
from tests.performance.figures import Figure, median
from wrenn.control.db.embedded import ensure_running, stop
from wrenn.control.db.migrate import migrate
from wrenn.control.hosts.pki import ensure_pki

FIRST_PAINT_MS = 800
NAVIGATION_MS = 100
EVENT_MS = 200
FRAMES_PER_S = 50
FILTER_MS = 100
SANDBOXES = 2000

# Scrolls through the whole list in two seconds; the number of frames that the browser drew in a second.
_SCROLL = """() => new Promise(done => {
  const height = document.documentElement.scrollHeight - innerHeight, begin = performance.now();
  let frames = 0;
  const step = now => {
    frames++;
    scrollTo(0, height * Math.min(1, (now - begin) / 2000));
    if (now - begin < 2000) requestAnimationFrame(step); else done(frames / 2);
  };
  requestAnimationFrame(step);
})"""
# An empty element as high as the list: what the browser itself reaches on this machine.
_EMPTY_LIST = """pixels => {
  const empty = document.createElement('div');
  empty.style.height = `${pixels}px`;
  document.querySelector('main').append(empty);
}"""
# Milliseconds from typing into the search until the next frame with the changed list.
_FILTER = """text => new Promise(done => {
  const search = document.querySelector('input[type=search]'), begin = performance.now();
  search.value = text;
  search.dispatchEvent(new InputEvent('input', {bubbles: true}));
  const step = () => {
    if (document.querySelector('[role=table]').getAttribute('aria-rowcount') === '2') done(performance.now() - begin);
    else requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""
# Milliseconds from a click on a link until the heading of its page is there.
_NAVIGATE = """([href, title]) => new Promise(done => {
  const begin = performance.now();
  document.querySelector(`a[href$="${href}"]`).click();
  const step = () => {
    if (document.querySelector('h1')?.textContent === title) done(performance.now() - begin);
    else requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""
# The time, by the clock of this machine, at which a row of this state appeared.
_SEEN = """state => new Promise(done => {
  const step = () => {
    if (document.querySelector('[role=rowgroup]').textContent.includes(state)) done(Date.now());
    else requestAnimationFrame(step);
  };
  step();
})"""


async def dashboard(rounds: int) -> list[Figure]:
    """The figures of the dashboard."""
    async with _own_platform() as platform, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        paints: list[float] = []
        person = await sign_up(platform.url)
        for _ in range(rounds):
            person = await sign_up(platform.url)
            async with visit(browser, person) as fresh:
                await fresh.open("sandboxes")
                await expect(
                    fresh.page.get_by_role("heading", name="Start your first sandbox")
                ).to_be_visible()
                paints.append(
                    await fresh.page.evaluate(
                        "performance.getEntriesByName('first-contentful-paint')[0].startTime"
                    )
                )
        person = await sign_up(platform.url)
        async with visit(browser, person) as visitor:
            events = await _event_times(visitor, rounds)
            changes = await _navigation_times(visitor, rounds)
            async with copies_of(str(platform.settings.database_url), "followed", SANDBOXES - 1):
                await visitor.open("sandboxes")
                await expect(visitor.page.get_by_text(f"{SANDBOXES:,} sandboxes, 1 running")).to_be_visible()
                frames = [await visitor.page.evaluate(_SCROLL) for _ in range(3)]
                height_px = await visitor.page.evaluate("document.documentElement.scrollHeight")
                filters: list[float] = []
                for round_number in range(rounds):
                    filters.append(await visitor.page.evaluate(_FILTER, f"copy {1000 + round_number}"))
                    await visitor.page.get_by_label("Search").fill("")
                    await expect(visitor.page.get_by_role("row")).not_to_have_count(2)
                await visitor.open("keys")
                await expect(visitor.page.get_by_text("No API key yet")).to_be_visible()
                await visitor.page.evaluate(_EMPTY_LIST, height_px)
                floor = [await visitor.page.evaluate(_SCROLL) for _ in range(3)]
        await browser.close()
    load = f"load {os.getloadavg()[0]:.1f}"
    return [
        _at_most("first paint of the list, empty cache", paints, FIRST_PAINT_MS, load),
        _at_most("change of page", changes, NAVIGATION_MS, load),
        _at_most("a pause elsewhere until the row shows it", events, EVENT_MS, load),
        _at_most(f"filter in a list of {SANDBOXES:,}", filters, FILTER_MS, load),
        Figure(
            f"scrolling through a list of {SANDBOXES:,}",
            f"{median(floor):.0f} frames/s: an empty page of the same height",
            f"{median(frames):.0f} frames/s",
            load,
            f"≥ {FRAMES_PER_S} frames/s",
            median(frames) >= FRAMES_PER_S,
        ),
    ]


def _at_most(what: str, measured: list[float], limit_ms: float, load: str) -> Figure:
    return Figure(
        f"dashboard: {what}", "", f"{median(measured):.0f} ms (least {min(measured):.0f})", load, f"≤ {limit_ms} ms",
        median(measured) <= limit_ms,
    )  # fmt: skip


async def _event_times(visitor: Visitor, rounds: int) -> list[float]:
    """From the response to a pause, after which the event is committed, until the row shows the state."""
    sandbox_id = await visitor.create(name="followed")
    await visitor.open("sandboxes")
    await expect(visitor.page.get_by_role("row")).to_have_count(2)
    times: list[float] = []
    for _ in range(rounds):
        seen = asyncio.ensure_future(visitor.page.evaluate(_SEEN, "paused"))
        await visitor.person.post(f"/v1/sandboxes/{sandbox_id}/pause")
        answered = time.time()
        times.append(max(0.0, await seen - answered * 1000))
        seen = asyncio.ensure_future(visitor.page.evaluate(_SEEN, "running"))
        await visitor.person.post(f"/v1/sandboxes/{sandbox_id}/resume")
        await seen
    return times


async def _navigation_times(visitor: Visitor, rounds: int) -> list[float]:
    """Between the list and the page to create a sandbox, whose programs are loaded already."""
    times: list[float] = []
    for _ in range(rounds + 1):
        times.append(await visitor.page.evaluate(_NAVIGATE, ["/sandboxes/new", "Create a sandbox"]))
        times.append(await visitor.page.evaluate(_NAVIGATE, ["/sandboxes", "Sandboxes"]))
    return times[2:]


@asynccontextmanager
async def _own_platform() -> AsyncGenerator[Platform]:
    folder = Path(tempfile.mkdtemp(prefix="wrenn-bench-"))
    folder.chmod(0o711)
    try:
        url = await ensure_running(folder)
        await migrate(url)
        await run_sql(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        ensure_pki(folder / "pki")
        async with platform_on_a_database_of_its_own(
            folder, folder / "pki", url, folder / "agent"
        ) as platform:
            yield platform
    finally:
        await stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    for figure in asyncio.run(dashboard(10)):
        print(figure)
