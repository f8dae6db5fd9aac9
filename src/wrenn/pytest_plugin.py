"""The pytest plugin: the fixture `wrenn` starts sandboxes and removes them when the test has ended. pytest loads it if `wrenn` is installed."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from wrenn.sdk import Sandbox

_FAILED = pytest.StashKey[bool]()


class Sandboxes:
    """The sandboxes of one test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.created: list[Sandbox] = []

    def create(self, *args: Any, **options: Any) -> Sandbox:
        """Start a sandbox; the arguments are those of `Sandbox.create`. It is removed at the end of the test, also if that is killed."""
        # The SDK is imported with the first sandbox: pytest loads this plugin in every run.
        from wrenn.sdk import Sandbox

        sandbox = self._stack.enter_context(Sandbox.create(*args, **options))
        self.created.append(sandbox)
        return sandbox


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--wrenn-keep`."""
    parser.getgroup("wrenn").addoption(
        "--wrenn-keep",
        action="store_true",
        help="pause the sandboxes of failed tests instead of removing them",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether the test has failed, for the fixture."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture
def wrenn(request: pytest.FixtureRequest) -> Iterator[Sandboxes]:
    """Starts sandboxes for this test, on the platform that `WRENN_BASE_URL` and `WRENN_API_KEY` or a profile name."""
    with ExitStack() as stack:
        sandboxes = Sandboxes(stack)
        yield sandboxes
        if request.config.getoption("--wrenn-keep") and request.node.stash.get(_FAILED, False):
            for sandbox in sandboxes.created:
                sandbox.pause()
                print(f"kept sandbox {sandbox.id}: wrenn resume {sandbox.id}")
