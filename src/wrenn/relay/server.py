"""The server's side of a connection with bounds that uvicorn leaves open: heads in size and time, bodies in silence.

uvicorn ends idle connections, but waits for ever for the first byte, for the rest of a head and for the rest of a body, and
takes heads of any size.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from wrenn.base.units import KIB
from wrenn.relay.asgi import Receive, Scope
from wrenn.relay.http import BrokenOff

HEAD_LIMIT_B: Final = 64 * KIB
HEADER_LIMIT: Final = 128
HEAD_TIMEOUT_S: Final = 20.0
"""From the connection, or from a head's first byte, to its end."""
BODY_SILENCE_S: Final = 60.0
"""Longest that a client may send nothing of a body that is waited for."""
_ABORT: Final = "wrenn.abort"
_TOO_LARGE: Final = b"HTTP/1.1 431 \r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class _TooManyHeaders(Exception):
    """Ends the parser's work."""


WRITE_AHEAD_B: Final = 1024 * 1024
"""What may wait to be sent on one connection. With the usual 64 KiB each chunk of a download waits until the one before is nearly
gone."""


class BoundedHttp(HttpToolsProtocol):
    """HTTP/1.1 with the limits above."""

    head_timeout_s: ClassVar[float] = HEAD_TIMEOUT_S
    body_silence_s: ClassVar[float] = BODY_SILENCE_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_b = 0
        self._in_head = True
        self._header_count = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._heard_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head, but not for ever."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_AHEAD_B)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_timers()
        super().connection_lost(exc)

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._body_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._body_timer = None

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._give_up)

    def _give_up(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """More of a head or a body."""
        self._heard_at = self.loop.time()
        if self._in_head:
            self._head_b += len(data)
            self._expect_head()
        super().data_received(data)
        if self._in_head and self._head_b > HEAD_LIMIT_B and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._header_count = 0
        self.scope["extensions"] = {_ABORT: self.transport.abort}  # type: ignore[typeddict-item]

    def on_header(self, name: bytes, value: bytes) -> None:
        """One more header."""
        self._header_count += 1
        if self._header_count > HEADER_LIMIT:
            raise _TooManyHeaders
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head = False
        self._head_b = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """More of a body: from the first piece on, its silence is looked at."""
        if self._body_timer is None:
            self._body_timer = self.loop.call_later(self.body_silence_s, self._look_at_body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The next byte begins a head."""
        self._in_head = True
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        super().on_message_complete()

    def _look_at_body(self) -> None:
        self._body_timer = None
        silent_s = self.loop.time() - self._heard_at
        if self.transport.is_closing():
            return
        if silent_s >= self.body_silence_s and not self.flow.read_paused:
            self.transport.abort()
        else:
            delay_s = max(self.body_silence_s - silent_s, 1.0)
            self._body_timer = self.loop.call_later(delay_s, self._look_at_body)

    def handle_websocket_upgrade(self) -> None:
        """The WebSocket's own rules hold from here on."""
        self._stop_timers()
        super().handle_websocket_upgrade()


class BoundedSocket(WebSocketsSansIOProtocol):
    """A WebSocket whose handshake is not logged: its URL may carry a signed link."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _QUIET


_QUIET: Final = logging.getLogger("wrenn.relay.sockets")
_QUIET.setLevel(logging.WARNING)


async def break_off(scope: Scope, receive: Receive, error: BrokenOff) -> None:
    """End the client's connection in the middle of an answer, which is how it learns that the answer is not whole.

    Raises:
        BrokenOff: the server is another one, and does it when it sees this.
    """
    abort = scope.get("extensions", {}).get(_ABORT)
    if abort is None:
        raise error
    abort()
    while (await receive())["type"] != "http.disconnect":
        pass
