"""Logs of sandboxes: what the kernel and the first process of a running sandbox have written to its console, by lines."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from wrenn.base.errors import InvalidState
from wrenn.control.auth import Credential
from wrenn.control.e2b.sandboxes import E2bSandboxes
from wrenn.control.guests import Inspection


@dataclass(frozen=True, slots=True)
class LogLines:
    """Lines, oldest first. The console has no times, so all have that of the sandbox's start."""

    at: datetime
    lines: list[str]


class E2bLogs:
    """Reads logs for clients of the e2b API. That is no activity, and resumes no sandbox."""

    def __init__(self, *, sandboxes: E2bSandboxes, inspection: Inspection) -> None:
        self._sandboxes = sandboxes
        self._inspection = inspection

    async def read(self, credential: Credential, text_id: str) -> LogLines:
        """Return what the console has, at most 64 KiB; nothing of a sandbox that does not run.

        Raises:
            NotFound. Else as `Inspection.console`.
        """
        sandbox = (await self._sandboxes.find(credential, text_id)).sandbox
        at = sandbox.started_at or sandbox.created_at
        if not sandbox.is_usable:
            return LogLines(at, [])
        try:
            text = await self._inspection.console(credential, str(sandbox.sandbox_id))
        except InvalidState:
            return LogLines(at, [])  # it was paused meanwhile
        return LogLines(at, [line.rstrip("\r") for line in text.splitlines() if line.strip()])
