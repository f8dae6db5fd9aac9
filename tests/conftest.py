"""For all suites: what this machine cannot run is skipped, and the summary says why; and every run comes to its end.

pytest-timeout interrupts a test once. What then hangs in the teardown of its fixtures, or in a thread that the end of the
program waits for, would hold up the run for ever; so these have a limit too, after which the program tells where it hangs
and ends.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator
from types import FrameType

import pytest

# pytest has no public name for the standard error behind its capturing.
from _pytest.faulthandler import fault_handler_stderr_fd_key

from wrenn.base.faults import arm_faults
from wrenn.base.gc_tuning import collect_rarely, freeze_gc

# Collections cost up to a fifth of the CPU time of a run otherwise: what is imported is kept, and so are pytest's own objects.
collect_rarely()

# Programs that tests start keep their bytecode: one that compiles all that it imports takes some seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_END_LIMIT = "end_limit"
_SLOWEST_FILES = 10


def pytest_configure() -> None:
    """End a run that is told to end (SIGTERM) as one that is interrupted: its servers are stopped, its folders removed."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting; a test of it needs a short one."""
    parser.addini(
        _END_LIMIT, "Seconds until a teardown, and the end of the program, are cut off.", default="240"
    )


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    """No fault outlives its test."""
    yield
    arm_faults("")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Limit a teardown."""
    limit_s = float(item.config.getini(_END_LIMIT))
    faulthandler.dump_traceback_later(limit_s, exit=True, file=item.config.stash[fault_handler_stderr_fd_key])
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Limit what the interpreter still waits for."""
    if sys.__stderr__ is not None:
        faulthandler.dump_traceback_later(
            float(config.getini(_END_LIMIT)), exit=True, file=sys.__stderr__.fileno()
        )


def pytest_collection_finish() -> None:
    """Never scan again what has been imported by now."""
    freeze_gc()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip by marker; the markers are described in pyproject.toml."""
    missing: dict[str, str] = {}
    if os.geteuid() != 0:
        missing["root"] = "needs root; run: sudo make test"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        missing["kvm"] = "this machine has no usable /dev/kvm"
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the files that took longest, and what drivers were spared."""
    _list_slowest(terminalreporter)
    _list_spared(terminalreporter)


def _list_slowest(terminalreporter: pytest.TerminalReporter) -> None:
    """The files that took longest, their fixtures included."""
    took_s = defaultdict[str, float](float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            # A subtest's time is also its test's.
            if type(report) is pytest.TestReport:
                took_s[report.nodeid.partition("::")[0]] += report.duration
    if len(took_s) > 1:
        terminalreporter.section(f"slowest files of {len(took_s)}", sep="=")
        slowest = sorted(took_s.items(), key=lambda item: item[1], reverse=True)
        for name, seconds in slowest[:_SLOWEST_FILES]:
            terminalreporter.write_line(f"{seconds:7.1f} s  {name}")


def _list_spared(terminalreporter: pytest.TerminalReporter) -> None:
    """How many tests a driver was spared, for want of which capability."""
    skipped: list[pytest.TestReport] = terminalreporter.getreports("skipped")
    missing = Counter(
        match[1]
        for report in skipped
        if isinstance(report.longrepr, tuple)
        and (match := re.search(r"capability (\w+) of drivers", report.longrepr[2]))
    )
    for capability, count in sorted(missing.items()):
        terminalreporter.write_line(f"{count} tests skipped: a driver lacks the capability {capability}")
