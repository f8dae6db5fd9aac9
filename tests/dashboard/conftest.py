"""The dashboard in a real browser, served by a real control plane with an agent over the simulated driver.

`visitor` is somebody who has signed in. A test fails if its pages reported any error: an exception, a message on the console,
a violation of the content security policy.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    ViewportSize,
    async_playwright,
    expect,
)

from tests.integration import conftest as integration
from tests.integration.conftest import Platform, platform_on_a_database_of_its_own
from tests.integration.people import Person, sign_up
from wrenn.control.dashboard.built_files import BUILT

CHROMIUM = Path("/usr/bin/chromium")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
DEADLINE_MS = 15_000
DESKTOP = ViewportSize(width=1440, height=900)
PHONE = ViewportSize(width=390, height=844)
ALL_LOOKS = [("1440", "dark"), ("1440", "light"), ("390", "light"), ("390", "dark")]
SAMPLE_OF_LOOKS = ALL_LOOKS[::2]
AXE = Path(__file__).parents[2] / "dashboard/node_modules/axe-core/axe.min.js"
SCREENSHOTS = Path(os.environ.get("WRENN_SCREENSHOTS_DIR", "build/screenshots"))

data_dir = integration.data_dir
template_url = integration.template_url
pki = integration.pki

expect.set_options(timeout=DEADLINE_MS)

# The program of the page takes the click, as that of any link. The address changes when the new page is drawn.
_FOLLOW_A_LINK = """href => new Promise(done => {
  const link = Object.assign(document.createElement('a'), { href });
  document.body.append(link);
  link.click();
  link.remove();
  const look = () => location.pathname === link.pathname ? done() : setTimeout(look, 5);
  look();
})"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip where there is no browser or no build. The tests share one event loop, in which the platform and the browser live."""
    reason = ""
    if not CHROMIUM.exists():
        reason = "there is no Chromium: apt-get install chromium"
    elif not (BUILT / "index.html").is_file():
        reason = "the dashboard is not built: make setup, with Node.js in PATH"
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@dataclass
class Visitor:
    """Somebody in a browser. `person` makes calls as the same user, without the browser."""

    person: Person
    context: BrowserContext
    page: Page
    slug: str
    errors: list[str] = field(default_factory=list[str])
    """What the pages reported. A test that provokes errors empties it."""

    def url(self, path: str) -> str:
        """A page of the visitor's team, such as `sandboxes/new`."""
        return f"{self.person.url}/t/{self.slug}/{path}"

    async def open(self, path: str) -> None:
        """Show a page of the team: by a link, if a page of the dashboard is shown, else by its address."""
        url = self.url(path)
        here, there = urlsplit(self.page.url), urlsplit(url)
        if here.netloc == there.netloc and here.path.startswith("/t/") and here.path != there.path:
            await self.page.evaluate(_FOLLOW_A_LINK, url)
        else:
            await self.page.goto(url)

    async def new_page(self) -> Page:
        """Another tab of the same browser."""
        page = await self.context.new_page()
        watch(page, self.errors)
        return page

    async def create(self, **fields: object) -> str:
        """The id of a new sandbox, made without the browser."""
        answer = await self.person.post("/v1/sandboxes", fields)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    async def check_look(self, name: str) -> None:
        """Keep a picture of the page, for people to look at: dark and wide, light and narrow.

        In each of them nothing is wider than the page, and no rule of accessibility is broken. With WRENN_ALL_LOOKS, as in
        `make test-looks`, both themes are looked at in both widths.
        """
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        sizes = {"1440": DESKTOP, "390": PHONE}
        for width, theme in ALL_LOOKS if "WRENN_ALL_LOOKS" in os.environ else SAMPLE_OF_LOOKS:
            await self.page.set_viewport_size(sizes[width])
            await self.page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
            await self.page.screenshot(path=SCREENSHOTS / f"{name}-{theme}-{width}.png")
            await check_accessibility(self.page, f"{name}, {theme}, {width}")
            overflow = await self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert overflow <= 0, f"{name} is {overflow} px wider than {width} px"
        await self.page.evaluate("delete document.documentElement.dataset.theme")
        await self.page.set_viewport_size(DESKTOP)


async def check_accessibility(page: Page, what: str) -> None:
    """Check the page by the rules of axe-core: WCAG 2.1, A and AA."""
    # By the debugger, to which the content security policy does not apply.
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE.read_text())
    found = await page.evaluate(
        "async () => (await axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})).violations.map("
        "rule => `${rule.id} (${rule.impact}): ${rule.nodes.map(node => node.html).join('; ').slice(0, 300)}`)"
    )
    assert found == [], what


def watch(page: Page, errors: list[str]) -> None:
    """Collect what a page reports."""
    page.set_default_timeout(DEADLINE_MS)
    page.on("pageerror", lambda error: errors.append(f"exception: {error}"))

    def note(message: ConsoleMessage) -> None:
        # The browser itself reports refused calls; this one finds out whether somebody is signed in. And over plain HTTP it
        # says that it ignores one of the headers.
        expected = message.location["url"].endswith("/v1/auth/refresh") or "Opener-Policy" in message.text
        if message.type in ("error", "warning") and not expected:
            errors.append(f"console: {message.text}")

    page.on("console", note)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def platform(
    data_dir: Path, pki: Path, template_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Platform]:
    """One platform for all tests of the dashboard; each has a user and a team of its own."""
    agent_dir = tmp_path_factory.mktemp("host") / "agent"
    async with platform_on_a_database_of_its_own(data_dir, pki, template_url, agent_dir) as platform:
        yield platform


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        # Pages of one site share a process, so that a new page finds its programs compiled.
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*QUIET, "--renderer-process-limit=1"]
        )
        yield browser
        await browser.close()


class Profiles:
    """Browser profiles that tests use one after the other, so that what a page loads is in the cache already.

    A test that changes a profile for good (by a clock or a script of its own) takes a new one: `visit`.
    """

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser = browser
        self._url = url
        self._unused: list[tuple[BrowserContext, Page]] = []

    @asynccontextmanager
    async def lend(self) -> AsyncGenerator[BrowserContext]:
        """A profile without cookies and storage, and with one page that is none of the dashboard's."""
        context, anchor = self._unused.pop() if self._unused else await self._new()
        yield context
        # Not reached if a page reported an error: then the profile is not used again.
        for page in context.pages:
            if page is not anchor:
                await page.close()
        await context.clear_cookies()
        await context.clear_permissions()
        await context.set_offline(False)
        await anchor.evaluate("localStorage.clear()")
        self._unused.append((context, anchor))

    async def _new(self) -> tuple[BrowserContext, Page]:
        context = await self._browser.new_context(viewport=DESKTOP, color_scheme="dark")
        # It keeps the process of the pages, and runs none of their programs.
        anchor = await context.new_page()
        await anchor.goto(f"{self._url}/favicon.svg")
        return context, anchor


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def profiles(browser: Browser, platform: Platform) -> Profiles:
    return Profiles(browser, platform.url)


@asynccontextmanager
async def visit(
    browser: Browser, person: Person, *, viewport: ViewportSize = DESKTOP, **options: Any
) -> AsyncGenerator[Visitor]:
    """This user, signed in, in a new profile. `options` are those of `Browser.new_context`."""
    context = await browser.new_context(viewport=viewport, color_scheme="dark", **options)
    try:
        async with signed_in(context, person) as visitor:
            yield visitor
    finally:
        await context.close()


@asynccontextmanager
async def visit_in_profile(profiles: Profiles, person: Person) -> AsyncGenerator[Visitor]:
    """This user, signed in, in a profile that tests share."""
    async with profiles.lend() as context, signed_in(context, person) as visitor:
        yield visitor


@asynccontextmanager
async def signed_in(context: BrowserContext, person: Person) -> AsyncGenerator[Visitor]:
    """A page of a profile that has the cookie of the user's session. At the end no page has reported an error."""
    team = (await person.get(f"/v1/teams/{person.team_id}")).json()["team"]
    await context.add_cookies(
        [
            {
                "name": "wrenn_refresh",
                "value": person.cookie,
                "domain": "127.0.0.1",
                "path": "/v1/auth",
                "httpOnly": True,
            }
        ]
    )
    errors: list[str] = []
    page = await context.new_page()
    watch(page, errors)
    yield Visitor(person, context, page, team["slug"], errors)
    assert errors == []


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(profiles: Profiles, platform: Platform) -> AsyncIterator[Visitor]:
    """The owner of a new team, signed in."""
    async with visit_in_profile(profiles, await sign_up(platform.url)) as visitor:
        yield visitor
    await integration.empty(platform)


@pytest_asyncio.fixture(loop_scope="session")
async def visitor_with_own_profile(browser: Browser, platform: Platform) -> AsyncIterator[Visitor]:
    """The same in a new profile, whose clock goes as usual, but may be put forward and stopped (`page.clock`)."""
    async with visit(browser, await sign_up(platform.url)) as visitor:
        await visitor.page.clock.install()
        yield visitor
    await integration.empty(platform)


def path_of(page: Page) -> str:
    """The path that the address bar shows."""
    return urlsplit(page.url).path


def at(path: str) -> re.Pattern[str]:
    """An address that ends with this path."""
    return re.compile(f"{re.escape(path)}$")
