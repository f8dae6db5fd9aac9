"""`python -m tests.performance.traced_program agent` is `wrenn agent`, and logs when it passes its fault points.

They stand at the boundaries between side effects, which is what a step is. The product knows nothing of it.
"""

from __future__ import annotations

import json
import sys
import time

from wrenn.base import faults

PASSED = "passed"
"""The event; its fields are `point` and `at`, seconds of the clock that all processes share."""


async def _passed(name: str) -> None:
    sys.stderr.write(json.dumps({"event": PASSED, "point": name, "at": time.monotonic()}) + "\n")


if __name__ == "__main__":
    # Before the modules of the programs take it by name.
    assert not any(name.startswith(("wrenn.agent", "wrenn.control")) for name in sys.modules)
    faults.fault_point = _passed
    from wrenn.cli.main import main

    main()
