"""The client's end of a WebSocket: errors are the response to the handshake, or a last message after it."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from wrenn.base.errors import AccessLost, Cancelled, TooLarge, WrennError
from wrenn.base.units import KIB
from wrenn.control.http.errors import error_response
from wrenn.protocol.api import STREAM_MESSAGE_LIMIT_B

STALL_LIMIT_S: Final = 60.0
"""How long a client may take for one message before it is given up. A process never waits longer for a reader either."""
_REVOKED_LIMIT_S: Final = 1.0
"""The same where the client has no right any more."""
_REFUSED: Final = 1008
"""Close code after a message that says what went wrong."""


class ClientSocket:
    """The WebSocket of one client. One task reads; several may write."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    @property
    def handshake(self) -> HTTPConnection:
        """The handshake request."""
        return self._socket

    async def accept(self) -> None:
        """Accept the handshake, unless that was done."""
        if self._socket.client_state is WebSocketState.CONNECTING:
            await self._socket.accept()

    async def receive(self) -> str | bytes:
        """Return the next message.

        Raises:
            Cancelled: the client went away. TooLarge: above `STREAM_MESSAGE_LIMIT_B`.
        """
        received = await self._socket.receive()
        if received["type"] == "websocket.disconnect":
            raise Cancelled("The client went away.")
        text = received.get("text")
        message = text if text is not None else received["bytes"]
        if len(message) > STREAM_MESSAGE_LIMIT_B:
            raise TooLarge(f"A message has more than {STREAM_MESSAGE_LIMIT_B // KIB} KiB: send it in pieces.")
        return message

    async def send(self, message: str | bytes) -> None:
        """Send a message; waits while the client is behind.

        Raises:
            Cancelled: the client went away, or took nothing for `STALL_LIMIT_S`.
        """
        try:
            async with asyncio.timeout(STALL_LIMIT_S):
                if isinstance(message, bytes):
                    await self._socket.send_bytes(message)
                else:
                    await self._socket.send_text(message)
        except (WebSocketDisconnect, OSError) as error:
            raise Cancelled("The client went away, or does not read.") from error

    async def fail(self, error: WrennError, last_message: str) -> None:
        """End the connection with an error: as the response to the handshake, or as a last message after it.

        A client whose credential is no longer valid, and that does not read, is not waited for.
        """
        if self._socket.application_state is WebSocketState.CONNECTING:
            await self._socket.send_denial_response(error_response(error))
            return
        is_revoked = isinstance(error, AccessLost)
        timeout_s = _REVOKED_LIMIT_S if is_revoked else STALL_LIMIT_S
        try:
            async with asyncio.timeout(timeout_s):
                await self.send(last_message)
        except (Cancelled, TimeoutError):
            return
        await self.close(_REFUSED, timeout_s=timeout_s)

    async def close(self, code: int = 1000, *, timeout_s: float = STALL_LIMIT_S) -> None:
        """Close the connection; does nothing if it was closed."""
        if self._socket.application_state is not WebSocketState.CONNECTED:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._socket.close(code)
        except (WebSocketDisconnect, RuntimeError, OSError):
            return
