"""An accepted ASGI WebSocket that carries binary messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from wrenn.base.errors import Cancelled, InvalidRequest
from wrenn.protocol.host.streams import MESSAGE_LIMIT_B, STALL_LIMIT_S

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class PeerDisconnected(Cancelled):
    """The peer disconnected, or stopped reading. `close_code` is the peer's, or 1006."""

    def __init__(self, close_code: int) -> None:
        super().__init__("The control plane left the stream.")
        self.close_code = close_code


class WebSocket:
    """An accepted WebSocket. One task may read and one may write at a time."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def accept(self) -> None:
        """Accept the handshake."""
        await self._receive()
        await self._send({"type": "websocket.accept"})

    async def receive(self) -> bytes:
        """Return the next message, which is never empty.

        Raises:
            PeerDisconnected. InvalidRequest: text, nothing, or too much.
        """
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            raise PeerDisconnected(message.get("code", 1006))
        if not (data := message.get("bytes")):
            raise InvalidRequest("A message of the stream is not binary.")
        if len(data) > MESSAGE_LIMIT_B:
            raise InvalidRequest("A message of the stream is over-long.")
        return data

    async def send(self, data: bytes) -> None:
        """Send a message; waits while the peer is behind.

        Raises:
            PeerDisconnected: also when it took nothing for `STALL_LIMIT_S`.
        """
        try:
            async with asyncio.timeout(STALL_LIMIT_S):
                await self._send({"type": "websocket.send", "bytes": data})
        except OSError as error:  # the server's own error for a client that is gone, and the timeout
            raise PeerDisconnected(1006) from error

    async def close(self) -> None:
        """Close the connection. Ignored if it is closed already."""
        try:
            async with asyncio.timeout(STALL_LIMIT_S):
                await self._send({"type": "websocket.close"})
        except (OSError, RuntimeError):
            return
