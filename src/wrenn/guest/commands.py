"""Runs programs in the guest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from protobuf import Oneof

from wrenn.base import errors as e
from wrenn.base.ids import random_hex
from wrenn.base.output_buffer import OutputBudget, OutputBuffer, OutputLimits
from wrenn.guest.connect import GuestConnection
from wrenn.guest.exit_events import parse_exit
from wrenn.protocol.guest import process_pb as pb

DRAIN_MS: Final = 100
"""How long to wait for more output after a process has ended while children of it still have its pipes open."""
_CALL_TIMEOUT_S: Final = 10.0
_LIST_FIELDS: Final = 100_000
"""Limit for a list of all processes with their arguments and environment variables."""
_GRACE_S: Final = 5.0
"""How much longer than the command's own time limit we wait for the guest to report it."""
_START_TIMEOUT_S: Final = 15.0
_OWN_TAG: Final = "wrenn-exec-"
_KILL_TIMEOUT_S: Final = 3.0
"""Of a caller whose command is killed because its time is up. The kill itself goes on when the guest answers later."""
_START_MARGIN_S: Final = 0.5
"""Time for the guest to start a program that was requested just before the call was cancelled."""
_COMMAND_NOT_FOUND: Final = 127
_COMMAND_NOT_EXECUTABLE: Final = 126


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A program to run, without a shell. An empty `cwd` is the user's home directory."""

    cmd: str
    args: Sequence[str] = ()
    envs: Mapping[str, str] = field(default_factory=dict[str, str])
    cwd: str = ""
    user: str = "root"


@dataclass(frozen=True, slots=True)
class ExecResult:
    """The output of a command and how it ended (see `Exited`)."""

    stdout: bytes
    stderr: bytes
    exit_code: int
    signal: int = 0
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A running process that was started through the guest agent."""

    pid: int
    tag: str
    cmd: str
    args: tuple[str, ...]


class Commands:
    """Runs and lists programs in one guest."""

    def __init__(self, guest: GuestConnection) -> None:
        self._guest = guest

    async def run(
        self, command: CommandLine, *, timeout_s: float, held: OutputBuffer | None = None
    ) -> ExecResult:
        """Run a program to its end and collect its output, in `held` if its memory is to be counted.

        The exit code is 127 if the program does not exist and 126 if it is not executable, as in a shell. A
        cancellation kills the program.

        Raises:
            DeadlineExceeded: it ran longer than `timeout_s` and was killed with all its descendants.
            TooLarge, RateLimited: its output exceeds a limit; it was killed.
        """
        output = held or OutputBuffer.of(OutputBudget(OutputLimits()), sandbox="")
        # Identifies the process before its pid is known; `list` does not show it.
        tag = _OWN_TAG + random_hex(8)
        process: int | str = tag
        try:
            async with asyncio.timeout(timeout_s + _GRACE_S):
                headers = {"Connect-Timeout-Ms": str(int(timeout_s * 1000))}
                async with self._start(command, tag=tag, headers=headers) as events:
                    async for event in events:
                        match event.event:
                            case Oneof(field="start", value=start):
                                process = start.pid
                            case Oneof(field="data", value=data):
                                _collect(output, data)
                            case Oneof(field="end", value=end):
                                how = parse_exit(end)
                                return ExecResult(
                                    output.joined("stdout"),
                                    output.joined("stderr"),
                                    how.exit_code,
                                    how.signal,
                                    how.out_of_memory,
                                )
                            case _:
                                pass
        except (e.NotFound, e.Forbidden) as error:
            return failed_to_start(command, error)
        except (TimeoutError, e.DeadlineExceeded) as error:
            await self.kill_quietly(process)
            raise e.DeadlineExceeded(
                f"The command did not end within {timeout_s:g} s and was killed."
            ) from error
        except (e.TooLarge, e.RateLimited, asyncio.CancelledError):
            await self.kill_quietly(process)
            raise
        raise e.AgentFailure("The sandbox ended the command's stream without its exit code.")

    async def start(self, command: CommandLine, *, tag: str) -> int:
        """Start a program in the background and return its pid.

        Raises:
            NotFound: no such program.
        """
        try:
            async with (
                asyncio.timeout(_START_TIMEOUT_S),
                self._start(command, tag=tag, headers={}) as events,
            ):
                async for event in events:
                    if event.event is not None and event.event.field == "start":
                        return int(event.event.value.pid)
                    break
        except TimeoutError as error:
            raise e.DeadlineExceeded(
                "The sandbox did not start the command in time. It may still start it: look at its processes before you repeat this."
            ) from error
        raise e.AgentFailure("The sandbox did not report the start of the command.")

    @contextlib.asynccontextmanager
    async def _start(self, command: CommandLine, *, tag: str, headers: Mapping[str, str]):
        request = pb.StartRequest(
            process=process_config(command),
            tag=tag or None,
            stdin=False,
            drain_ms=DRAIN_MS,
        )
        async with self._guest.stream(
            "process.Process/Start", request, pb.StartResponse, user=command.user, headers=headers
        ) as answers:
            yield _events(answers)

    async def list(self) -> list[ProcessInfo]:
        """List the running processes that were started through the guest agent."""
        answer = await self._guest.unary(
            "process.Process/List",
            pb.ListRequest(),
            pb.ListResponse,
            user="root",
            timeout_s=_CALL_TIMEOUT_S,
            field_limit=_LIST_FIELDS,
        )
        return [
            ProcessInfo(
                p.pid,
                "" if p.tag.startswith(_OWN_TAG) else p.tag,
                p.config.cmd,
                tuple(p.config.args),
            )
            for p in answer.processes
            if p.config is not None
        ]

    async def signal(self, selector: int | str, signal: int, *, descendants: bool = False) -> None:
        """Send a signal to the process group of a process; with `descendants`, SIGKILL is sent to all its descendants too.

        Raises:
            NotFound: no such running process.
        """
        request = pb.SendSignalRequest(
            process=process_selector(selector), signal=pb.Signal(signal), descendants=descendants
        )
        await self._guest.unary(
            "process.Process/SendSignal",
            request,
            pb.SendSignalResponse,
            user="root",
            timeout_s=_CALL_TIMEOUT_S,
        )

    async def kill_quietly(self, process: int | str) -> None:
        """Kill a process that we started and no longer need, with all its descendants.

        Returns after a few seconds at most. Errors are ignored: the process may have ended, or the guest may no longer answer.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KILL_TIMEOUT_S):
                await asyncio.shield(self._kill(process))

    async def _kill(self, process: int | str) -> None:
        """Kill a process by pid, or the process that has this tag or is about to start with it."""
        # Here, because nobody sees an error that comes after the caller's deadline.
        with contextlib.suppress(e.WrennError):
            try:
                await self.signal(process, 9, descendants=True)
            except e.NotFound:
                if isinstance(process, str):
                    await asyncio.sleep(_START_MARGIN_S)
                    await self.signal(process, 9, descendants=True)


async def _events(answers: AsyncIterator[pb.StartResponse]) -> AsyncIterator[pb.ProcessEvent]:
    has_begun = False
    try:
        async for answer in answers:
            has_begun = True
            if answer.event is not None:
                yield answer.event
    except e.TooLarge as error:
        if has_begun:
            raise
        raise as_process_limit(error) from error


def as_process_limit(error: e.TooLarge) -> e.ProcessLimit:
    """Translate the guest's code `resource_exhausted`, which before the start of a program means that a process limit is reached."""
    return e.ProcessLimit(
        f"The sandbox could not start the command: {error.message}. End some of its processes, or give it more memory."
    )


def process_config(command: CommandLine) -> pb.ProcessConfig:
    """Convert a command to the guest agent's message."""
    return pb.ProcessConfig(
        cmd=command.cmd, args=list(command.args), envs=dict(command.envs), cwd=command.cwd or None
    )


def process_selector(selector: int | str) -> pb.ProcessSelector:
    """Convert a pid or a tag to the guest agent's message."""
    if isinstance(selector, int):
        return pb.ProcessSelector(selector=Oneof("pid", selector))
    return pb.ProcessSelector(selector=Oneof("tag", selector))


def _collect(output: OutputBuffer, data: pb.ProcessEvent.DataEvent) -> None:
    match data.output:
        case Oneof(field="stdout", value=written):
            output.add("stdout", written)
        case Oneof(field="stderr", value=written):
            output.add("stderr", written)
        case _:
            pass


def failed_to_start(command: CommandLine, error: e.NotFound | e.Forbidden) -> ExecResult:
    """Return what a shell reports for a program that does not exist or may not be executed."""
    if isinstance(error, e.NotFound):
        what, code = "not found", _COMMAND_NOT_FOUND
    else:
        what, code = "permission denied", _COMMAND_NOT_EXECUTABLE
    text = f"{command.cmd}: {what}\n" if command.cmd in error.message else f"{error.message}\n"
    return ExecResult(b"", text.encode(errors="replace"), code)
