"""Runs a command to its end: `POST /sandboxes/{id}/exec`. Contract: docs/design/host-api.md.

The answer is the messages of a process stream, each behind its length, written as the command writes: the agent holds no more
of the output than one piece, and a control plane that has read enough leaves, which kills the command.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from wrenn.agent.rpc.files import PREFIX
from wrenn.agent.rpc.guest_streams import GuestStream, StreamOpener
from wrenn.agent.rpc.internal_errors import hiding_internal_errors
from wrenn.agent.rpc.process_streams import command_of, message_of, opened
from wrenn.agent.rpc.websocket import Receive, Scope, Send
from wrenn.base.errors import (
    Cancelled,
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    NotFound,
    WrennError,
)
from wrenn.base.ids import SandboxId
from wrenn.base.units import KIB
from wrenn.guest import Event, Exited, FollowedProcess, Started, failed_to_start
from wrenn.protocol.host.streams import (
    MESSAGE_HEAD,
    MESSAGE_LIMIT_B,
    STALL_LIMIT_S,
    Kind,
    StartProcess,
    failure_message,
    parse_opening,
)

_log = logging.getLogger(__name__)

EXEC: Final = "/exec"
_GRACE_S: Final = 5.0
"""How much longer than the command's own deadline we wait for the guest to report it."""
_PIECE_B: Final = 64 * KIB
"""Shorter output waits for more, or for the end: a short command has one answer in one piece."""
_WAIT_S: Final = 1.0
"""So long output waits at most: whoever follows a long command sees what it writes."""


class Execs:
    """ASGI application for `POST /sandboxes/{id}/exec`. The caller cancels it when the client disconnects."""

    def __init__(self, sandboxes: StreamOpener) -> None:
        self._sandboxes = sandboxes

    def serves(self, scope: Scope) -> bool:
        """Return whether a request is an exec."""
        path = scope["path"]
        return (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and path.startswith(PREFIX)
            and path.endswith(EXEC)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one command. What goes wrong is the last message of an answer whose status is always 200."""
        answer = _Answer(send)
        sending = asyncio.create_task(answer.send_what_waits())
        try:
            await self._answer(scope, receive, answer)
        finally:
            sending.cancel()
            await asyncio.wait({sending})

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            with hiding_internal_errors("exec failed", _ClientGone):
                opening = await _opening(receive)
                sandbox_id = SandboxId.parse(scope["path"].removeprefix(PREFIX).removesuffix(EXEC))
                async with self._sandboxes.open_stream(sandbox_id) as stream:
                    await self._run(stream, opening, answer)
        except _ClientGone:
            # The server cuts a connection whose answer is not whole.
            return
        except WrennError as error:
            with suppress(_ClientGone):
                await answer.add(failure_message(error))
        with suppress(_ClientGone):
            await answer.finish()

    async def _run(self, stream: GuestStream, opening: StartProcess, answer: _Answer) -> None:
        timeout_s = opening.timeout_ms / 1000
        process: FollowedProcess | None = None
        try:
            # A guest that has no time for its agent may not even begin to answer.
            async with (
                asyncio.timeout(timeout_s + _GRACE_S),
                opened(stream.processes, opening) as process,
            ):
                async for events in process.events():
                    await answer.add_events(events)
        except (NotFound, Forbidden) as error:
            if process is None or process.pid:
                raise
            said = failed_to_start(command_of(opening), error)
            await answer.add(bytes((Kind.STDERR,)) + said.stderr)
            await answer.add_events([Exited(said.exit_code)])
        except (TimeoutError, DeadlineExceeded) as error:
            # One that has not started yet is killed by the guest, which knows the limit.
            if process is not None:
                await process.kill_quietly()
            raise DeadlineExceeded(
                f"The command did not end within {timeout_s:g} s and was killed."
            ) from error
        except (Cancelled, asyncio.CancelledError):
            if process is not None:
                await asyncio.shield(process.kill_quietly())
            raise


class _ClientGone(Cancelled):
    """The client disconnected or no longer reads the response."""


class _Answer:
    """Collects the response body into chunks and sends them."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting = bytearray()
        self._has_begun = False
        self._sending = asyncio.Lock()
        self._is_client_gone = False
        self._is_finished = False

    async def add_events(self, events: list[Event]) -> None:
        for event in events:
            if not isinstance(event, Started):
                await self.add(message_of(event))

    async def add(self, message: bytes) -> None:
        """Add one message; sends a chunk when enough has accumulated. Raises _ClientGone."""
        self._waiting += MESSAGE_HEAD.pack(len(message)) + message
        if len(self._waiting) >= _PIECE_B:
            await self._send_piece()

    async def send_what_waits(self) -> None:
        """Send output that waits for more, at an interval, until cancelled."""
        with suppress(_ClientGone):  # the next call of `add` raises it too
            while True:
                await asyncio.sleep(_WAIT_S)
                if self._waiting:
                    await self._send_piece()

    async def _send_piece(self) -> None:
        async with self._sending:
            if not self._is_finished:
                await self._begin([])
                await self._write(more=True)

    async def finish(self) -> None:
        """Send the rest. Raises _ClientGone."""
        async with self._sending:
            self._is_finished = True
            await self._begin([(b"content-length", str(len(self._waiting)).encode())])
            await self._write(more=False)

    async def _begin(self, headers: list[tuple[bytes, bytes]]) -> None:
        if not self._has_begun:
            self._has_begun = True
            headers = [(b"content-type", b"application/octet-stream"), *headers]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _write(self, *, more: bool) -> None:
        if self._is_client_gone:
            raise _ClientGone("The control plane does not read the answer.")
        body = bytes(self._waiting)
        self._waiting.clear()
        try:
            async with asyncio.timeout(STALL_LIMIT_S):
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError as error:
            self._is_client_gone = True
            raise _ClientGone("The control plane does not read the answer.") from error


async def _opening(receive: Receive) -> StartProcess:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone("The control plane broke the call off.")
        body += message.get("body", b"")
        if len(body) > MESSAGE_LIMIT_B:
            raise InvalidRequest("The command is over-long.")
        if not message.get("more_body"):
            break
    opening = parse_opening(bytes(body)).process
    if not isinstance(opening, StartProcess) or opening.terminal is not None or not opening.timeout_ms:
        raise InvalidRequest("The call does not begin with a command that has a time limit.")
    return opening
