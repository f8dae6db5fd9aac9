"""Follows a process through its host's agent, over one WebSocket (docs/design/streams.md).

A connection costs a TLS handshake with certificates on both sides, some milliseconds before the first byte. So once streams are
used, one connection to each host is made ahead of need.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

import aiohttp

from wrenn.base.errors import AgentFailure, Unavailable, cause_of
from wrenn.base.ids import SandboxId
from wrenn.base.request_ids import request_id
from wrenn.base.tasks import OwnedTasks
from wrenn.control.hosts.transport import HostConnection
from wrenn.protocol.api import STREAM_MESSAGE_LIMIT_B
from wrenn.protocol.host.streams import (
    MESSAGE_LIMIT_B,
    SERVICE_RESTART,
    STREAM_PATH,
    AttachProcess,
    Kind,
    StartProcess,
    json_message,
    open_message,
    parse_failure,
)

assert STREAM_MESSAGE_LIMIT_B < MESSAGE_LIMIT_B, (
    "a client's message fits into one to the agent, with its kind"
)
_SILENCE_LIMIT_S: Final = 90.0
"""The agent pings every 20 s; without that for so long it is not there any more."""
_AHEAD_DELAY_S: Final = 0.1
"""So that the handshake for the next stream does not hold up the first byte of this one."""


class HostStream:
    """An open stream to a process. One task reads and one writes.

    Attributes:
        is_writing: input is on its way; for long when the process does not read.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._first = asyncio.create_task(socket.receive())
        self._awaits_first = True
        self.is_writing = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing has arrived on it, not even its end."""
        return not self._first.done()

    async def open(self, sandbox_id: SandboxId, opening: StartProcess | AttachProcess) -> None:
        """Send the first message, which says which process the stream is about."""
        await self._send(open_message(str(sandbox_id), opening, request_id=request_id.get()))

    async def receive(self) -> bytes:
        """Return the next message, whose first byte is its kind.

        Raises:
            WrennError: how the stream failed, in the agent's words. Unavailable: the host is not there any more.
        """
        try:
            if self._awaits_first:
                self._awaits_first = False
                async with asyncio.timeout(_SILENCE_LIMIT_S):
                    message = await self._first
            else:
                message = await self._socket.receive(timeout=_SILENCE_LIMIT_S)
        except TimeoutError as error:
            raise Unavailable("The host of this sandbox does not answer any more.") from error
        if message.type is not aiohttp.WSMsgType.BINARY:
            if self._socket.close_code == SERVICE_RESTART:
                raise Unavailable("The host ended the stream because it restarts; the process goes on.")
            raise Unavailable(
                "The host of this sandbox ended the stream.", context={"close_code": self._socket.close_code}
            )
        data: bytes = message.data
        if not data:
            raise AgentFailure("The host sent an empty message.")
        if data[0] == Kind.FAILED:
            raise parse_failure(data[1:])
        return data

    async def close(self) -> None:
        """Detach from the process and close the connection."""
        self._first.cancel()
        await asyncio.wait({self._first})
        if not self._first.cancelled():
            self._first.exception()  # seen; the stream is over
        await self._socket.close()

    async def write(self, data: bytes) -> None:
        """Send input to the process; waits while the process does not read."""
        self.is_writing = True
        await self._send(bytes((Kind.INPUT,)) + data)
        self.is_writing = False

    async def close_input(self) -> None:
        """Close the input of the process."""
        await self._send(bytes((Kind.CLOSE_INPUT,)))

    async def send_message(self, kind: Kind, value: Mapping[str, object]) -> None:
        """Send a terminal size or a signal."""
        await self._send(json_message(kind, value))

    async def _send(self, data: bytes) -> None:
        try:
            await self._socket.send_bytes(data)
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(
                "The connection to the host of this sandbox broke.", context={"cause": cause_of(error)}
            ) from error


class StreamConnections:
    """WebSocket connections to one agent, each for one stream."""

    def __init__(self, connection: HostConnection, tasks: OwnedTasks) -> None:
        self._connection = connection
        self._tasks = tasks
        self._spare: HostStream | None = None
        self._closed = False

    @asynccontextmanager
    async def stream(self) -> AsyncGenerator[HostStream]:
        """Open a stream; leaving the context detaches from its process.

        Raises:
            Unavailable: the host does not answer.
        """
        stream, self._spare = self._spare, None
        if stream is not None and not stream.is_idle:
            await stream.close()
            stream = None
        if stream is None:
            stream = await self._connected()
        try:
            self._tasks.start("connect ahead", self._connect_ahead())
            yield stream
        finally:
            await stream.close()

    async def close(self) -> None:
        """Close the spare connection; those in use end with their streams."""
        self._closed = True
        spare, self._spare = self._spare, None
        if spare is not None:
            await spare.close()

    async def _connect_ahead(self) -> None:
        await asyncio.sleep(_AHEAD_DELAY_S)
        if self._spare is not None:
            return
        with suppress(Unavailable):
            stream = await self._connected()
            if self._spare is None and not self._closed:
                self._spare = stream
            else:
                await stream.close()

    async def _connected(self) -> HostStream:
        try:
            socket = await self._connection.connect_stream(self._connection.url(STREAM_PATH))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._connection.not_answering(error) from error
        return HostStream(socket)
