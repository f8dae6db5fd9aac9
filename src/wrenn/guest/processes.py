"""Follow a process of the guest while it runs: what it writes as it comes, and what is written to it in its order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Literal

from protobuf import Oneof

from wrenn.base import errors as e
from wrenn.base.units import KIB
from wrenn.guest.commands import DRAIN_MS, CommandLine, Commands, config_of, no_process_left, selected
from wrenn.guest.connect import GuestConnection
from wrenn.guest.endings import Exited, exited
from wrenn.protocol.guest import process_pb as pb

Stream = Literal["stdout", "stderr", "pty"]

_CALL_TIMEOUT_S: Final = 10.0
_START_TIMEOUT_S: Final = 15.0
_KEEPALIVE_S: Final = 30
"""How often the guest says that it is there when the process is silent."""
_SILENCE_LIMIT_S: Final = 300.0
"""Without even that for so long, the guest is not there any more."""
_PIECE_B: Final = 256 * KIB
"""Outputs in a row are put together up to about this length."""
_EVENTS_AT_ONCE: Final = 16
_STREAMS: Final[frozenset[str]] = frozenset({"stdout", "stderr", "pty"})
_SIGKILL: Final = 9


@dataclass(frozen=True, slots=True)
class Started:
    """The process runs. `replayed` bytes of what comes were written before, and `missed` bytes before those are gone."""

    pid: int
    missed: int
    replayed: int


@dataclass(frozen=True, slots=True)
class Output:
    """What a process wrote to one of its outputs, in pieces."""

    stream: Stream
    pieces: tuple[bytes, ...]


Event = Started | Output | Exited


class Processes:
    """Processes in one guest, to be followed."""

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
        """Start a program; with `size` (columns, rows) in a terminal. It outlives the context.

        After `timeout_s` the guest kills it with all that came from it, and the stream ends with `DeadlineExceeded`.

        Raises:
            NotFound, Forbidden: no such program, or it may not be run; on the first read.
        """
        terminal = None if size is None else pb.PTY(size=pb.PTY.Size(cols=size[0], rows=size[1]))
        request = pb.StartRequest(
            process=config_of(command),
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
        """Follow a process that was started before; with `replay` first what the guest kept of its output.

        Raises:
            NotFound: there is none; on the first read.
        """
        request = pb.ConnectRequest(process=selected(selector), replay=replay)
        async with self._guest.batches(
            "process.Process/Connect", request, pb.ConnectResponse, user="root", headers=_keepalive()
        ) as answers:
            yield FollowedProcess(self._guest, answers, in_terminal=in_terminal)


def _keepalive() -> Mapping[str, str]:
    return {"Keepalive-Ping-Interval": str(_KEEPALIVE_S)}


class FollowedProcess:
    """One process that is being followed. Its methods that write may be called once it has started."""

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
        """What happens, as many events as have come at once; `Started` is the first and `Exited` the last.

        Raises:
            AgentFailure: the guest told something else, or in another order. As `GuestConnection.batches` besides.
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
                raise no_process_left(error) from error
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
        """Write to its input; returns when the process has taken it, whenever that is.

        Raises:
            InvalidState: its input is closed. AgentFailure: it has none. NotFound: it has ended.
        """
        if self._in_terminal:
            given = pb.ProcessInput(input=Oneof("pty", data))
        else:
            given = pb.ProcessInput(input=Oneof("stdin", data))
        request = pb.SendInputRequest(process=selected(self.pid), input=given)
        await self._guest.unary(
            "process.Process/SendInput", request, pb.SendInputResponse, user="root", timeout_s=None
        )

    async def close_input(self) -> None:
        """End its input. Twice is the same as once."""
        await self._guest.unary(
            "process.Process/CloseStdin",
            pb.CloseStdinRequest(process=selected(self.pid)),
            pb.CloseStdinResponse,
            user="root",
            timeout_s=_CALL_TIMEOUT_S,
        )

    async def resize(self, cols: int, rows: int) -> None:
        """Change the size of its terminal. Raises InvalidState: it has none."""
        request = pb.UpdateRequest(
            process=selected(self.pid), pty=pb.PTY(size=pb.PTY.Size(cols=cols, rows=rows))
        )
        await self._guest.unary(
            "process.Process/Update", request, pb.UpdateResponse, user="root", timeout_s=_CALL_TIMEOUT_S
        )

    async def signal(self, signal: int) -> None:
        """Send a signal to its process group. Raises NotFound: it has ended."""
        await Commands(self._guest).signal(self.pid, signal)

    async def kill_quietly(self) -> None:
        """Kill it with all that came from it. It may have ended, and the guest may be past answering."""
        if self.pid:
            with suppress(e.WrennError):
                await Commands(self._guest).signal(self.pid, _SIGKILL, descendants=True)


def _events(answers: list[pb.StartResponse] | list[pb.ConnectResponse]) -> list[Event]:
    """The events of a batch, outputs in a row put together; what comes after an end is left out.

    Where streams take turns very often, the outputs of each are put together: an event costs all who pass it on much more
    than a byte, and between two pipes there is no order but by chance.
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
                events.append(exited(end))
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
