"""Which driver passes which tests of the suite: recorded while they run, and written as docs/design/vm.md.

`WRENN_DRIVER_RESULTS=FILE` has pytest add to the file; `python -m tests.drivers.results FILE` writes the page from it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Final

import pytest

PAGE: Final = Path(__file__).resolve().parents[2] / "docs/design/vm.md"
VARIABLE: Final = "WRENN_DRIVER_RESULTS"
_WORST: Final = ("failed", "skipped", "passed")
_SIGNS: Final = {"passed": "yes", "skipped": "no such capability", "failed": "**fails**"}
_HEAD: Final = """# Virtual machine drivers: what each one passes

Made by the tests (`tests/drivers/results.py`); do not edit. One row for each test of the [suite of drivers](drivers.md#the-suite), one column for each driver: `simulated` has
no virtual machine, `qemu` is QEMU under emulation, `qemu-kvm` and `firecracker-kvm` run with KVM in the [host machine](vm-kvm.md), the latter with disks on
[device-mapper](vm-disks-dm.md). Empty: not run when the page was made.

"""

Results = dict[str, dict[str, str]]


def record(item: pytest.Item, report: pytest.TestReport) -> None:
    """Add the outcome of a test to the file, if there is one."""
    path = os.environ.get(VARIABLE)
    callspec = getattr(item, "callspec", None)
    ended = report.when == "call" or (report.when == "setup" and report.outcome != "passed")
    if not path or callspec is None or "host" not in callspec.params or not ended:
        return
    file = Path(path)
    results: Results = json.loads(file.read_text()) if file.exists() else {}
    of_test = results.setdefault(getattr(item, "originalname", item.name), {})
    driver = str(callspec.params["host"])
    # A test with parameters has several outcomes.
    of_test[driver] = min(of_test.get(driver, "passed"), report.outcome, key=_WORST.index)
    file.write_text(json.dumps(results, indent=1, sort_keys=True))


def page(results: Results) -> str:
    """The page for these results."""
    drivers = sorted({driver for of_test in results.values() for driver in of_test})
    lines = [f"| test | {' | '.join(drivers)} |", f"|---|{'---|' * len(drivers)}"]
    for test, of_test in sorted(results.items()):
        cells = [_SIGNS.get(of_test.get(driver, ""), "") for driver in drivers]
        lines.append(f"| {test.removeprefix('test_').replace('_', ' ')} | {' | '.join(cells)} |")
    return _HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(json.loads(Path(sys.argv[1]).read_text())))
