"""Follows a process in the guest while it runs: streams its output as it is written, and sends its input in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

from protobuf import Oneof

from wrenn.base import errors as e
from wrenn.base.units import KIB
from wrenn.guest.commands import (
    DRAIN_MS,
    CommandLine,
    Commands,
    as_process_limit,
    process_config,
    process_selector,
)
from wrenn.guest.connect import GuestConnection
from wrenn.guest.exit_events import Exited, parse_exit
from wrenn.protocol.guest import process_pb as pb

Stream = Literal["stdout", "stderr", "pty"]

_CALL_TIMEOUT_S: Final = 10.0
_START_TIMEOUT_S: Final = 15.0
_KEEPALIVE_S: Final = 30
"""How often the guest sends a keep-alive while the process is silent."""
_SILENCE_LIMIT_S: Final = 300.0
"""If not even a keep-alive arrives for this long, the guest is considered dead."""
_PIECE_B: Final = 256 * KIB
"""Consecutive outputs are merged up to about this length."""
_EVENTS_AT_ONCE: Final = 16
_STREAMS: Final[frozenset[str]] = frozenset({"stdout", "stderr", "pty"})


@dataclass(frozen=True, slots=True)
class Started:
    """The process runs. The next `replayed` bytes were written earlier, and `missed` bytes before those were discarded."""

    pid: int
    missed: int
    replayed: int


@dataclass(frozen=True, slots=True)
class Output:
    """Output of a process on one stream, in pieces."""

    stream: Stream
    pieces: tuple[bytes, ...]


Event = Started | Output | Exited


class Processes:
    """Starts processes in one guest, or attaches to them, and follows them."""

    def __init__(self, guest: GuestConnection) -> None:
        self._guest = guest

    @asynccontextmanager
    async def start(
        self,
        command: CommandLine,
        *,
        tag: str = "",
        stdin: bool = False,
        size: tuple[int, int] | None = None,
        timeout_s: float = 0.0,
    ) -> AsyncGenerator[FollowedProcess]:
        """Start a program; with `size` (columns, rows) in a terminal. It continues to run after the context is left.

        After `timeout_s` the guest kills it with all its descendants, and the stream ends with
        `DeadlineExceeded`.

        Raises:
            NotFound, Forbidden: the program does not exist or is not executable; raised on the first read.
        """
        terminal = None if size is None else pb.PTY(size=pb.PTY.Size(cols=size[0], rows=size[1]))
        request = pb.StartRequest(
            process=process_config(command),
            pty=terminal,
            tag=tag or None,
            stdin=stdin,
            drain_ms=DRAIN_MS,
        )
        headers = {"Connect-Timeout-Ms": str(int(timeout_s * 1000))} if timeout_s else {}
        async with self._guest.batches(
            "process.Process/Start",
            request,
            pb.StartResponse,
            user=command.user,
            headers={**headers, **_keepalive()},
        ) as answers:
            yield FollowedProcess(self._guest, answers, in_terminal=size is not None)

    @asynccontextmanager
    async def attach(
        self, selector: int | str, *, replay: bool, in_terminal: bool
    ) -> AsyncGenerator[FollowedProcess]:
        """Follow a process that was started earlier. With `replay`, first yield the output that the guest has buffered.

        Raises:
            NotFound: no such process; raised on the first read.
        """
        request = pb.ConnectRequest(process=process_selector(selector), replay=replay)
        async with self._guest.batches(
            "process.Process/Connect", request, pb.ConnectResponse, user="root", headers=_keepalive()
        ) as answers:
            yield FollowedProcess(self._guest, answers, in_terminal=in_terminal)


def _keepalive() -> Mapping[str, str]:
    return {"Keepalive-Ping-Interval": str(_KEEPALIVE_S)}


class FollowedProcess:
    """A process that is being followed. Methods that write may be called once it has started."""

    def __init__(
        self,
        guest: GuestConnection,
        answers: AsyncIterator[list[pb.StartResponse]] | AsyncIterator[list[pb.ConnectResponse]],
        *,
        in_terminal: bool,
    ) -> None:
        self._guest = guest
        self._answers = answers
        self._in_terminal = in_terminal
        self.pid = 0

    async def events(self) -> AsyncIterator[list[Event]]:
        """Yield events in batches, as many as have arrived. `Started` is the first event and `Exited` the last.

        Raises:
            AgentFailure: the guest sent an unknown event, or events out of order.
            WrennError: as for `GuestConnection.batches`.
        """
        started_by = asyncio.get_running_loop().time() + _START_TIMEOUT_S
        while True:
            now = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout_at(now + _SILENCE_LIMIT_S if self.pid else started_by):
                    answers = await anext(self._answers)
            except StopAsyncIteration:
                raise e.AgentFailure("The sandbox ended the stream without an exit code.") from None
            except TimeoutError as error:
                raise e.Unavailable("The sandbox does not answer any more.") from error
            except e.TooLarge as error:
                if self.pid:
                    raise
                raise as_process_limit(error) from error
            events = _events(answers)
            if not self.pid and events:
                if not isinstance(events[0], Started):
                    raise e.AgentFailure("The sandbox did not report the start of the command.")
                self.pid = events[0].pid
                later = events[1:]
            else:
                later = events
            if any(isinstance(event, Started) for event in later):
                raise e.AgentFailure("The sandbox reported the start of the command twice.")
            if events:
                yield events
                if isinstance(events[-1], Exited):
                    return

    async def write(self, data: bytes) -> None:
        """Write to the standard input. Returns when the process has read it, without a time limit.

        Raises:
            InvalidState: the input is closed.
            AgentFailure: the process has no input.
            NotFound: the process has ended.
        """
        if self._in_terminal:
            given = pb.ProcessInput(input=Oneof("pty", data))
        else:
            given = pb.ProcessInput(input=Oneof("stdin", data))
        request = pb.SendInputRequest(process=process_selector(self.pid), input=given)
        await self._guest.unary(
            "process.Process/SendInput", request, pb.SendInputResponse, user="root", timeout_s=None
        )

    async def close_input(self) -> None:
        """Close the standard input. Idempotent."""
        await self._guest.unary(
            "process.Process/CloseStdin",
            pb.CloseStdinRequest(process=process_selector(self.pid)),
            pb.CloseStdinResponse,
            user="root",
            timeout_s=_CALL_TIMEOUT_S,
        )

    async def resize(self, cols: int, rows: int) -> None:
        """Change the size of the terminal. Raises InvalidState if the process has none."""
        request = pb.UpdateRequest(
            process=process_selector(self.pid), pty=pb.PTY(size=pb.PTY.Size(cols=cols, rows=rows))
        )
        await self._guest.unary(
            "process.Process/Update", request, pb.UpdateResponse, user="root", timeout_s=_CALL_TIMEOUT_S
        )

    async def signal(self, signal: int) -> None:
        """Send a signal to the process group. Raises NotFound if the process has ended."""
        await Commands(self._guest).signal(self.pid, signal)

    async def kill_quietly(self) -> None:
        """Kill the process, if it has started; as `Commands.kill_quietly`."""
        if self.pid:
            await Commands(self._guest).kill_quietly(self.pid)


def _events(answers: list[pb.StartResponse] | list[pb.ConnectResponse]) -> list[Event]:
    """Return the events of a batch, with consecutive outputs merged. Events after the end of the process are dropped.

    If stdout and stderr alternate very often, the outputs of each are merged: the cost of an event is much
    greater than that of a byte for everybody who forwards it, and the order between two pipes is not defined
    anyway.
    """
    events: list[Event] = []
    pieces: list[bytes] = []
    stream: Stream | None = None
    length = 0

    def put() -> None:
        nonlocal length
        if stream is not None and pieces:
            events.append(Output(stream, tuple(pieces)))
            pieces.clear()
            length = 0

    for answer in answers:
        event = answer.event.event if answer.event is not None else None
        match event:
            case Oneof(field="data", value=data) if data.output is not None and data.output.field in _STREAMS:
                if data.output.field != stream or length >= _PIECE_B:
                    put()
                    stream = data.output.field
                pieces.append(data.output.value)
                length += len(data.output.value)
            case Oneof(field="start", value=start):
                put()
                events.append(Started(int(start.pid), int(start.missed), int(start.replayed)))
            case Oneof(field="end", value=end):
                put()
                events.append(parse_exit(end))
                break
            case _:
                pass
    put()
    return _grouped(events) if len(events) > _EVENTS_AT_ONCE else events


def _grouped(events: list[Event]) -> list[Event]:
    outputs: dict[Stream, list[bytes]] = {}
    for event in events:
        if isinstance(event, Output):
            outputs.setdefault(event.stream, []).extend(event.pieces)
    grouped: list[Event] = [event for event in events if isinstance(event, Started)]
    for stream, pieces in outputs.items():
        data = b"".join(pieces)
        grouped += [
            Output(stream, (data[begin : begin + _PIECE_B],)) for begin in range(0, len(data), _PIECE_B)
        ]
    return grouped + [event for event in events if isinstance(event, Exited)]
