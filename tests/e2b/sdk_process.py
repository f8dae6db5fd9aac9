"""A process that runs scenarios with an SDK of e2b: requests and answers as JSON, one a line. See `worker.py`."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
_SCENARIO_TIMEOUT_S: Final = 60.0
_ANSWER_LIMIT_B: Final = 1 << 20


class SdkProcess:
    """A process that runs scenarios with one release of an SDK, one at a time; started by the first one."""

    def __init__(self, label: str, command: Sequence[str], variables: Mapping[str, str]) -> None:
        self._label = label
        self._command = command
        self._variables = variables
        self.environment: dict[str, str] = {}
        self._process: asyncio.subprocess.Process | None = None

    async def run_named(self, module: str, name: str, environment: Mapping[str, str] | None = None) -> None:
        """Run a scenario, with more variables in its environment if some are given; fails with its traceback if it fails."""
        process = self._process or await self._start()
        assert process.stdin is not None, "its input is a pipe"
        assert process.stdout is not None, "its output is a pipe"
        request = {
            "module": module,
            "name": name,
            "environment": {**self.environment, **(environment or {})},
        }
        process.stdin.write(json.dumps(request).encode() + b"\n")
        try:
            async with asyncio.timeout(_SCENARIO_TIMEOUT_S):
                answer = await process.stdout.readline()
        except TimeoutError:
            await self.close()
            raise AssertionError(f"{name} did not end in {_SCENARIO_TIMEOUT_S:.0f} s") from None
        assert answer, "the process of the SDK ended"
        if error := json.loads(answer)["error"]:
            raise AssertionError(f"with {self._label}:\n{error}")

    async def _start(self) -> asyncio.subprocess.Process:
        own = {name: value for name, value in os.environ.items() if not name.startswith("E2B_")}
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={**own, **self._variables},
            limit=_ANSWER_LIMIT_B,
        )
        return self._process

    async def close(self) -> None:
        """End the process."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._process = None
