"""Runs programs in a sandbox through its host's agent."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from wrenn.base.errors import DeadlineExceeded, InvalidRequest, NotFound
from wrenn.base.faults import fault_point
from wrenn.base.ids import SandboxId, random_hex
from wrenn.base.output_buffer import OutputBudget, OutputBuffer, OutputName
from wrenn.base.signal_names import SIGNAL_EXIT_BASE
from wrenn.control.auth import Credential
from wrenn.control.guests.records import StartedProcess
from wrenn.control.guests.types import Exec
from wrenn.control.hosts import (
    SIGNALS,
    Command,
    HostNotResponding,
    Kind,
    ProcessEnd,
    RunningProcess,
    StartProcess,
)
from wrenn.control.sandboxes import RunningSandbox, RunningSandboxes
from wrenn.protocol.api import EXEC_TIMEOUT_LIMIT_S

_CALL_TIMEOUT_S: Final = 20.0
_PID_LIMIT: Final = 2**22
_SIGKILL: Final = 9

RunWhileWanted = Callable[[Coroutine[Any, Any, ProcessEnd]], Awaitable[ProcessEnd]]
"""Runs a call for as long as somebody waits for its answer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended, and what it wrote.

    Attributes:
        late: why it was killed at its time limit; empty: it ended by itself.
    """

    sandbox_id: SandboxId
    end: ProcessEnd
    output: OutputBuffer
    duration_ms: int
    late: str


class Commands:
    """Runs, lists and signals programs in sandboxes."""

    def __init__(self, running_sandboxes: RunningSandboxes, budget: OutputBudget) -> None:
        self._running = running_sandboxes
        self._budget = budget

    @asynccontextmanager
    async def run(
        self, credential: Credential, text_id: str, body: Exec, *, while_wanted: RunWhileWanted
    ) -> AsyncGenerator[Outcome]:
        """Run a command to its end. Its output is buffered, and counted against the limits, until the context is left.

        `while_wanted` runs the call to the host and cancels it when the caller disconnects; the command is then killed.

        Raises:
            TooLarge, RateLimited: the output exceeded the limit of a buffer or of all buffers, and the command was killed.
            DeadlineExceeded: the host did not answer.
        """
        # A disconnect ends the command, so this limit of a day applies only while the caller waits.
        limit_s = body.timeout_sec or EXEC_TIMEOUT_LIMIT_S
        async with self._running.opened(credential, text_id) as running:
            await fault_point("control.exec.before_rpc")
            begun = time.monotonic()
            team, sandbox = str(running.team_id), str(running.sandbox_id)
            with OutputBuffer.of(self._budget, sandbox=sandbox, team=team) as output:
                late, end = "", ProcessEnd(SIGNAL_EXIT_BASE + _SIGKILL, _SIGKILL)
                try:
                    end = await while_wanted(_run(running, body, limit_s, output))
                except HostNotResponding:
                    raise
                except DeadlineExceeded as error:
                    late = error.message
                duration_ms = round((time.monotonic() - begun) * 1000)
                yield Outcome(running.sandbox_id, end, output, duration_ms, late)

    async def start(self, credential: Credential, text_id: str, body: Exec) -> StartedProcess:
        """Start a command in the background.

        Raises:
            NotFound: no such program.
        """
        running = await self._running.find_or_resume(credential, text_id)
        tag = body.tag or f"proc-{random_hex(4)}"
        await fault_point("control.exec.before_rpc")
        command = Command(
            body.cmd,
            body.args,
            body.envs,
            body.cwd or running.defaults.working_dir,
            body.user or running.defaults.user,
        )
        pid, tag = await running.host.start_process(
            running.sandbox_id, command, tag=tag, timeout_s=_CALL_TIMEOUT_S
        )
        return StartedProcess(running.sandbox_id, body.cmd, pid, tag)

    async def list(self, credential: Credential, text_id: str) -> list[RunningProcess]:
        """Return the living processes that were started through the API."""
        running = await self._running.find_or_resume(credential, text_id)
        return await running.host.list_processes(running.sandbox_id, timeout_s=_CALL_TIMEOUT_S)

    async def signal(self, credential: Credential, text_id: str, selector: str, signal: str) -> None:
        """Send a signal to the process with this pid (digits) or tag.

        Raises:
            NotFound: no such living process. InvalidRequest: a signal that is not one of `SIGNALS`.
        """
        number = signal_number(signal)
        running = await self._running.find_or_resume(credential, text_id)
        await running.host.signal_process(
            running.sandbox_id, selector_of(selector), number, timeout_s=_CALL_TIMEOUT_S
        )


def signal_number(name: str) -> int:
    """Return the number of the signal of this name. Raises InvalidRequest."""
    if (number := SIGNALS.get(name)) is None:
        raise InvalidRequest(f"signal: must be one of {', '.join(SIGNALS)}.")
    return number


def selector_of(text: str) -> int | str:
    """Parse the selector of a process: a pid (digits) or a tag. Raises NotFound for a number that is no pid."""
    if not (text.isascii() and text.isdigit()):
        return text
    if len(text) > len(str(_PID_LIMIT)) or int(text) > _PID_LIMIT:
        raise NotFound(f"There is no process {text[:20]}.")
    return int(text)


def _stream_of(kind: Kind) -> OutputName:
    return "stderr" if kind is Kind.STDERR else "stdout"


async def _run(running: RunningSandbox, body: Exec, limit_s: int, output: OutputBuffer) -> ProcessEnd:
    start = StartProcess(
        cmd=body.cmd,
        args=body.args,
        envs=body.envs,
        cwd=body.cwd or running.defaults.working_dir,
        user=body.user or running.defaults.user,
        timeout_ms=limit_s * 1000,
    )
    return await running.host.exec(
        running.sandbox_id, start, lambda kind, data: output.add(_stream_of(kind), data)
    )
