"""uvicorn's connections with the limits that it lacks: size of heads, and time for heads and bodies.

uvicorn closes idle connections, but waits forever for the first byte, for the rest of a head and for the rest
of a body, and accepts heads of any size.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from wrenn.base.units import KIB
from wrenn.relay.asgi import GONE, Receive, Scope
from wrenn.relay.http import IncompleteResponse
from wrenn.relay.message_budget import FRAGMENT_B, IncompleteMessage
from wrenn.relay.sockets import MESSAGE_LIMIT_B

HEAD_LIMIT_B: Final = 64 * KIB
HEADER_LIMIT: Final = 128
HEAD_TIMEOUT_S: Final = 20.0
"""From the connection, or from the first byte of a head, to the end of the head."""
BODY_SILENCE_S: Final = 60.0
"""Longest time that a client may send nothing of a body while the application waits for it."""
_ABORT: Final = "wrenn.abort"
_SWITCHING: Final = 101
_TRY_AGAIN_LATER: Final = 1013
_TOO_LARGE_BODY: Final = json.dumps(
    {
        "error": {
            "code": "too_large",
            "message": f"The head of the request has more than {HEAD_LIMIT_B // KIB} KiB or {HEADER_LIMIT} headers.",
        }
    }
).encode()
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n" % len(_TOO_LARGE_BODY)
) + _TOO_LARGE_BODY


class _HeadTooLarge(Exception):
    """The head is above its limits. The parser reports it as an error of its own."""


class _RequestTooEarly(Exception):
    """A request came before the response to the one before was complete. The parser reports it as an error of its own."""


WRITE_AHEAD_B: Final = 1024 * 1024
"""Bytes that may wait to be sent on one connection. With uvicorn's 64 KiB, each chunk of a download waits
until the one before is nearly sent."""


_PONG_TIMEOUT_S: Final = 300.0
"""A pong is queued behind all data that its sender has yet to send, and is not read while input waits for a process."""


class BoundedHttp(HttpToolsProtocol):
    """HTTP/1.1 with the limits above. The parser itself has none: it would buffer a head or trailer of any size.

    A client that sends a request before it has the whole response to the one before (pipelining) is disconnected. No
    browser does, and uvicorn would stop reading then, so that nobody would notice when such a client goes away.
    """

    head_timeout_s: ClassVar[float] = HEAD_TIMEOUT_S
    body_silence_s: ClassVar[float] = BODY_SILENCE_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_b = 0
        self._header_count = 0
        self._is_head_complete = False
        self._is_too_early = False
        # Bytes received since the parser last delivered a head or a part of a body.
        self._unparsed_b = 0
        self._is_head_too_large = False
        self._upgraded = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._last_data_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head, up to `head_timeout_s`."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_AHEAD_B)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._stop_timers()
        super().connection_lost(exc)

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._body_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._body_timer = None

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._close_idle)

    def _close_idle(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Handle more bytes of a head or a body."""
        self._last_data_at = self.loop.time()
        self._unparsed_b += len(data)
        super().data_received(data)
        if self._upgraded or self.transport.is_closing():
            return
        if self._unparsed_b > HEAD_LIMIT_B:
            self._refuse()
        elif self._is_idle():
            self._expect_head()

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._head_b = self._header_count = 0
        self._is_head_complete = False
        self.scope["extensions"] = {_ABORT: self.transport.abort}  # type: ignore[typeddict-item]

    def on_url(self, url: bytes) -> None:
        """Count a part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a complete header or trailer, and drop a trailer: uvicorn would add it to the headers.

        What a trusted proxy says of its client is believed, and a proxy forwards the client's own trailers too.
        """
        self._count(len(name) + len(value))
        self._header_count += 1
        if self._header_count > HEADER_LIMIT:
            self._count(HEAD_LIMIT_B)
        if not self._is_head_complete:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Handle the end of the head."""
        if not self._is_idle():
            self._is_too_early = True
            raise _RequestTooEarly
        self._is_head_complete = True
        self._unparsed_b = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Reject what the parser rejected, because of the limits or because it is not HTTP."""
        if self._is_too_early:
            self.transport.abort()
        elif self._is_head_too_large:
            self._refuse()
        elif not self.transport.is_closing():
            super().send_400_response(msg)

    def _count(self, size_b: int) -> None:
        self._head_b += size_b
        if self._head_b > HEAD_LIMIT_B:
            self._is_head_too_large = True
            raise _HeadTooLarge

    def _is_idle(self) -> bool:
        """Whether no response is in progress."""
        return not self.cycle or self.cycle.response_complete

    def _refuse(self) -> None:
        """Respond 431, unless a response has begun, and close the connection."""
        if self._is_idle():
            self.transport.write(_TOO_LARGE)
        self.transport.close()

    def on_body(self, body: bytes) -> None:
        """Handle more of the body, and watch for silence from its first piece on."""
        self._unparsed_b = 0
        if self._body_timer is None:
            self._body_timer = self.loop.call_later(self.body_silence_s, self._check_body_silence)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Expect a head next."""
        self._unparsed_b = 0
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        super().on_message_complete()

    def _check_body_silence(self) -> None:
        self._body_timer = None
        silent_s = self.loop.time() - self._last_data_at
        if self.transport.is_closing():
            return
        if silent_s >= self.body_silence_s and not self.flow.read_paused:
            self.transport.abort()
        else:
            delay_s = max(self.body_silence_s - silent_s, 1.0)
            self._body_timer = self.loop.call_later(delay_s, self._check_body_silence)

    def handle_websocket_upgrade(self) -> None:
        """From here on the limits of the WebSocket protocol apply."""
        self._upgraded = True
        self._stop_timers()
        super().handle_websocket_upgrade()


class BoundedSocket(WebSocketsSansIOProtocol):
    """A WebSocket that reports the client's disconnect at once, and does not log its URL, which may contain a signed link."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _QUIET
        self._gone = asyncio.Event()
        self._incomplete = IncompleteMessage(self._try_again_later)
        self._received_b = 0  # since the last complete message

    def data_received(self, data: bytes) -> None:
        """Handle bytes of a message, or of several."""
        self._received_b += len(data)
        super().data_received(data)
        if not self.transport.is_closing():
            self._incomplete.set_size(self._received_b + FRAGMENT_B * len(self.frames))

    def send_receive_event_to_app(self) -> None:
        """Handle a complete message."""
        super().send_receive_event_to_app()
        self._received_b = 0

    def handle_ping(self) -> None:
        """Handle a ping."""
        super().handle_ping()
        self._note_control_frame()

    def handle_pong(self, event: Any) -> None:
        """Handle a pong."""
        super().handle_pong(event)
        self._note_control_frame()

    def _note_control_frame(self) -> None:
        # Control frames between two messages must not be counted, or years of them would look like a message
        # that never ends.
        if not self.frames:
            self._received_b = 0

    def _try_again_later(self) -> None:
        if not self.close_sent and self.conn.state.name == "OPEN":
            self.conn.send_close(_TRY_AGAIN_LATER, "The server has no room for so long a message now.")
            self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()

    def handle_connect(self, event: Any) -> None:
        """Handle the head of the handshake, and give the application the event that is set on disconnect."""
        super().handle_connect(event)
        if self.response.status_code == _SWITCHING:
            self.scope["extensions"][GONE] = self._gone  # type: ignore[index]

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the connection, even if nobody calls `receive`."""
        self._gone.set()
        self._incomplete.set_size(0)
        super().connection_lost(exc)


SERVER_OPTIONS: Final[Mapping[str, Any]] = {
    "http": BoundedHttp,
    "ws": BoundedSocket,
    "ws_max_size": MESSAGE_LIMIT_B,
    "ws_ping_timeout": _PONG_TIMEOUT_S,
    # Compression costs 100 KB of memory for each connection, and messages are mostly short or compressed
    # already.
    "ws_per_message_deflate": False,
    "server_header": False,
    # The setting of trusted proxies decides whose `X-Forwarded-For` is believed, not uvicorn.
    "proxy_headers": False,
    "lifespan": "off",
    "access_log": False,
    "log_config": None,
}
"""Options of `uvicorn.Config` that all our programs use, besides their addresses and timeouts."""

_QUIET: Final = logging.getLogger("wrenn.relay.sockets")
_QUIET.setLevel(logging.WARNING)


async def abort_response(scope: Scope, receive: Receive, error: IncompleteResponse) -> None:
    """Close the client's connection in the middle of a response, so that the client notices that the response is incomplete.

    Raises:
        IncompleteResponse: the server has no such extension, and closes the connection itself when it sees this error.
    """
    abort = scope.get("extensions", {}).get(_ABORT)
    if abort is None:
        raise error
    abort()
    while (await receive())["type"] != "http.disconnect":
        pass
