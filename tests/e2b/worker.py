"""Runs scenarios with the e2b SDK of its own Python path: a program of its own, as two releases of it cannot be in one.

It reads requests, one JSON object a line: the module and the name of a function, and the environment. It answers each with an
object whose `error` is the traceback, or null. A coroutine function is run in an event loop of its own.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import sys
import traceback


def main() -> None:
    answers = sys.stdout
    # What a scenario or the SDK prints is no answer.
    sys.stdout = sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        os.environ.update(request["environment"])
        error = None
        try:
            scenario = getattr(importlib.import_module(request["module"]), request["name"])
            if inspect.iscoroutinefunction(scenario):
                asyncio.run(scenario())
            else:
                scenario()
        except Exception:  # noqa: BLE001 - whatever a scenario raises is its failure
            error = traceback.format_exc()
        answers.write(json.dumps({"error": error}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
