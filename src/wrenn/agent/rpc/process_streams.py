"""Follows a process over a WebSocket (`/processes/stream`). Contract: docs/design/streams.md."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from wrenn.agent.rpc.guest_streams import GuestStream, StreamOpener
from wrenn.agent.rpc.internal_errors import hiding_internal_errors
from wrenn.agent.rpc.process_input import InputForwarder
from wrenn.agent.rpc.websocket import PeerDisconnected, Receive, Scope, Send, WebSocket
from wrenn.base.errors import DeadlineExceeded, Forbidden, InvalidRequest, NotFound, WrennError
from wrenn.base.ids import SandboxId
from wrenn.base.request_ids import accept_request_id
from wrenn.guest import (
    CommandLine,
    Event,
    Exited,
    FollowedProcess,
    Output,
    Processes,
    Started,
    failed_to_start,
)
from wrenn.protocol.host.streams import (
    SERVICE_RESTART,
    AttachProcess,
    Kind,
    ProcessEnd,
    StartProcess,
    exited_message,
    failure_message,
    json_message,
    parse_opening,
)

_log = logging.getLogger(__name__)

_OPENING_TIMEOUT_S: Final = 300.0
"""The control plane connects ahead of need."""
_GRACE_S: Final = 5.0
"""How much longer than the command's own deadline we wait for the guest to report it."""
_OUTPUT_KIND: Final = {"stdout": Kind.STDOUT, "stderr": Kind.STDERR, "pty": Kind.PTY}


class ProcessStreams:
    """ASGI application for WebSockets at `STREAM_PATH`."""

    def __init__(self, sandboxes: StreamOpener) -> None:
        self._sandboxes = sandboxes

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one stream."""
        socket = WebSocket(receive, send)
        await socket.accept()
        try:
            with hiding_internal_errors("stream failed", PeerDisconnected):
                await self._serve(socket)
        except PeerDisconnected:
            return
        except WrennError as error:
            failure = error
        else:
            await socket.close()
            return
        try:
            await socket.send(failure_message(failure))
        except PeerDisconnected:
            return
        await socket.close()

    async def _serve(self, socket: WebSocket) -> None:
        try:
            async with asyncio.timeout(_OPENING_TIMEOUT_S):
                message = await socket.receive()
        except TimeoutError as error:
            raise InvalidRequest("The stream did not begin in time.") from error
        if message[0] != Kind.OPEN:
            raise InvalidRequest("The stream does not begin with its opening.")
        parsed = parse_opening(message[1:])
        accept_request_id(parsed.request_id)
        opening, sandbox_id = parsed.process, SandboxId.parse(parsed.sandbox_id)
        attached = isinstance(opening, AttachProcess) or opening.terminal is not None
        async with self._sandboxes.open_stream(sandbox_id) as stream:
            if attached:
                stream.mark_open(is_finite=False)
            await self._follow(stream, opening, socket)

    async def _follow(
        self, stream: GuestStream, opening: StartProcess | AttachProcess, socket: WebSocket
    ) -> None:
        """Forward output and input until the process ends or the client disconnects."""
        timeout_s = opening.timeout_ms / 1000 if isinstance(opening, StartProcess) else 0.0
        async with opened(stream.processes, opening) as process:
            inputs = InputForwarder(process, socket, stream.mark_active)
            outputs = asyncio.create_task(
                _outputs(process, opening, socket, inputs.begin, stream.mark_active)
            )
            reading = asyncio.create_task(inputs.run())
            try:
                async with asyncio.timeout(timeout_s + _GRACE_S if timeout_s else None):
                    await asyncio.wait({outputs, reading}, return_when=asyncio.FIRST_COMPLETED)
                if outputs.done():
                    outputs.result()
                else:
                    reading.result()
            except TimeoutError as error:
                await process.kill_quietly()
                raise DeadlineExceeded(
                    f"The command did not end within {timeout_s:g} s and was killed."
                ) from error
            except PeerDisconnected as left:
                left_alone = left.close_code == SERVICE_RESTART
                if isinstance(opening, StartProcess) and opening.kill_when_left and not left_alone:
                    await process.kill_quietly()
                raise
            finally:
                for task in (outputs, reading):
                    task.cancel()
                await asyncio.wait({outputs, reading})


def opened(
    processes: Processes, opening: StartProcess | AttachProcess
) -> AbstractAsyncContextManager[FollowedProcess]:
    """Return a context that starts the requested process or attaches to it."""
    if isinstance(opening, AttachProcess):
        return processes.attach(opening.selector, replay=opening.replay, in_terminal=opening.terminal)
    terminal = opening.terminal
    return processes.start(
        command_of(opening),
        tag=opening.tag,
        stdin=opening.stdin,
        size=None if terminal is None else (terminal.cols, terminal.rows),
        timeout_s=opening.timeout_ms / 1000,
    )


def command_of(opening: StartProcess) -> CommandLine:
    """Return the command line that a start request names."""
    return CommandLine(opening.cmd, opening.args, opening.envs, opening.cwd, opening.user or "root")


async def _outputs(
    process: FollowedProcess,
    opening: StartProcess | AttachProcess,
    socket: WebSocket,
    begin: asyncio.Event,
    mark_active: Callable[[], None],
) -> None:
    try:
        async for events in process.events():
            for event in events:
                await socket.send(message_of(event))
            begin.set()
            mark_active()
    except (NotFound, Forbidden) as error:
        if isinstance(opening, AttachProcess) or opening.terminal is not None or process.pid:
            raise
        # As of a command that is run to its end.
        said = failed_to_start(command_of(opening), error)
        await socket.send(bytes((Kind.STDERR,)) + said.stderr)
        await socket.send(message_of(Exited(said.exit_code)))


def message_of(event: Event) -> bytes:
    """Encode a process event as a message of the stream."""
    match event:
        case Output(stream, pieces):
            return b"".join((bytes((_OUTPUT_KIND[stream],)), *pieces))
        case Started(pid, missed, replayed):
            return json_message(Kind.STARTED, {"pid": pid, "missed": missed, "replayed": replayed})
        case Exited(exit_code, signal, out_of_memory):
            return exited_message(ProcessEnd(exit_code, signal, out_of_memory))
