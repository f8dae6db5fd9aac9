"""A process followed through its host's agent, over one WebSocket (docs/design/streams.md)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from wrenn.base.errors import AgentFailure, Unavailable
from wrenn.base.ids import SandboxId
from wrenn.protocol.host.streams import (
    LEAVING_FOR_A_RESTART,
    MESSAGE_LIMIT_B,
    AttachProcess,
    Kind,
    StartProcess,
    json_message,
    open_message,
    parse_failure,
)

_SILENCE_LIMIT_S: Final = 90.0
"""The agent pings every 20 s; without that for so long it is not there any more."""
_CLOSE_TIMEOUT_S: Final = 5.0


class HostStream:
    """An open stream. One task reads and one writes.

    Attributes:
        is_writing: input is on its way; for long when the process does not read.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.is_writing = False

    async def open(self, opening: StartProcess | AttachProcess) -> None:
        """Say which process it is about."""
        await self._send(open_message(opening))

    async def receive(self) -> bytes:
        """The next message, with its kind in the first byte.

        Raises:
            WrennError: how the stream failed, in the agent's words. Unavailable: the host is not there any more.
        """
        try:
            message = await self._socket.receive(timeout=_SILENCE_LIMIT_S)
        except TimeoutError as error:
            raise Unavailable("The host of this sandbox does not answer any more.") from error
        if message.type is not aiohttp.WSMsgType.BINARY:
            if self._socket.close_code == LEAVING_FOR_A_RESTART:
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

    async def write(self, data: bytes) -> None:
        """Input for the process; waits while it does not read."""
        self.is_writing = True
        await self._send(bytes((Kind.INPUT,)) + data)
        self.is_writing = False

    async def close_input(self) -> None:
        """End its input."""
        await self._send(bytes((Kind.CLOSE_INPUT,)))

    async def tell(self, kind: Kind, value: Mapping[str, object]) -> None:
        """A size or a signal."""
        await self._send(json_message(kind, value))

    async def _send(self, data: bytes) -> None:
        try:
            await self._socket.send_bytes(data)
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(
                "The connection to the host of this sandbox broke.", context={"cause": repr(error)}
            ) from error


@asynccontextmanager
async def opened_stream(
    session: aiohttp.ClientSession, address: str, sandbox_id: SandboxId
) -> AsyncGenerator[HostStream]:
    """Connect; leaving the context leaves the process."""
    try:
        socket = await session.ws_connect(
            f"{address}/sandboxes/{sandbox_id}/processes/stream",
            max_msg_size=MESSAGE_LIMIT_B,
            timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),  # pyright: ignore[reportCallIssue]
        )
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise Unavailable(
            "The host of this sandbox does not answer now.", context={"cause": repr(error)}
        ) from error
    try:
        yield HostStream(socket)
    finally:
        await socket.close()
