"""The server's side of a connection with bounds that uvicorn leaves open: heads in size and time, bodies in silence.

uvicorn ends idle connections, but waits for ever for the first byte, for the rest of a head and for the rest of a body, and
takes heads of any size.
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
from wrenn.relay.http import BrokenOff
from wrenn.relay.sockets import MESSAGE_LIMIT_B
from wrenn.relay.unfinished import FRAGMENT_B, Unfinished

HEAD_LIMIT_B: Final = 64 * KIB
HEADER_LIMIT: Final = 128
HEAD_TIMEOUT_S: Final = 20.0
"""From the connection, or from a head's first byte, to its end."""
BODY_SILENCE_S: Final = 60.0
"""Longest that a client may send nothing of a body that is waited for."""
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


class _TooMuch(Exception):
    """The head is above its limits; the parser turns it into an error of its own."""


WRITE_AHEAD_B: Final = 1024 * 1024
"""What may wait to be sent on one connection. With the usual 64 KiB each chunk of a download waits until the one before is nearly
gone."""


_PONG_TIMEOUT_S: Final = 300.0
"""A pong comes behind all that its sender has still to take, and is not read while input waits for a process."""


class BoundedHttp(HttpToolsProtocol):
    """HTTP/1.1 with the limits above. The parser has none: a head or trailer of any size would be kept."""

    head_timeout_s: ClassVar[float] = HEAD_TIMEOUT_S
    body_silence_s: ClassVar[float] = BODY_SILENCE_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_b = 0
        # Bytes since the parser has last given something that was let go of: a head, or a part of a body.
        self._held_b = 0
        self._too_much = False
        self._upgraded = False
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
        self._held_b += len(data)
        super().data_received(data)
        if self._upgraded or self.transport.is_closing():
            return
        if self._held_b > HEAD_LIMIT_B:
            self._refuse()
        elif self._is_idle():
            self._expect_head()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._head_b = 0
        self.scope["extensions"] = {_ABORT: self.transport.abort}  # type: ignore[typeddict-item]

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header, or a trailer."""
        self._count(len(name) + len(value))
        if len(self.headers) >= HEADER_LIMIT:
            self._count(HEAD_LIMIT_B)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._held_b = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser refused: because of us, or because it is not HTTP."""
        if self._too_much:
            self._refuse()
        elif not self.transport.is_closing():
            super().send_400_response(msg)

    def _count(self, size_b: int) -> None:
        self._head_b += size_b
        if self._head_b > HEAD_LIMIT_B:
            self._too_much = True
            raise _TooMuch

    def _is_idle(self) -> bool:
        """No answer is under way."""
        return not self.cycle or self.cycle.response_complete

    def _refuse(self) -> None:
        """Answer 431, if no answer has begun, and close."""
        if self._is_idle():
            self.transport.write(_TOO_LARGE)
        self.transport.close()

    def on_body(self, body: bytes) -> None:
        """More of a body: from the first piece on, its silence is looked at."""
        self._held_b = 0
        if self._body_timer is None:
            self._body_timer = self.loop.call_later(self.body_silence_s, self._look_at_body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The next byte begins a head."""
        self._held_b = 0
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
        self._upgraded = True
        self._stop_timers()
        super().handle_websocket_upgrade()


class BoundedSocket(WebSocketsSansIOProtocol):
    """A WebSocket whose end is told at once, and whose handshake is not logged: its URL may carry a signed link."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _QUIET
        self._gone = asyncio.Event()
        self._unfinished = Unfinished(self._try_again_later)
        self._received_b = 0  # since a message was whole

    def data_received(self, data: bytes) -> None:
        """More of a message, or several."""
        self._received_b += len(data)
        super().data_received(data)
        if not self.transport.is_closing():
            self._unfinished.is_now(self._received_b + FRAGMENT_B * len(self.frames))

    def send_receive_event_to_app(self) -> None:
        """A message is whole."""
        super().send_receive_event_to_app()
        self._received_b = 0

    def handle_ping(self) -> None:
        """A ping came."""
        super().handle_ping()
        self._note_control_frame()

    def handle_pong(self, event: Any) -> None:
        """A pong came."""
        super().handle_pong(event)
        self._note_control_frame()

    def _note_control_frame(self) -> None:
        # Between two messages it is no part of one; years of them would else look like a message that never ends.
        if not self.frames:
            self._received_b = 0

    def _try_again_later(self) -> None:
        if not self.close_sent:
            self.conn.send_close(_TRY_AGAIN_LATER, "The server has no room for so long a message now.")
            self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()

    def handle_connect(self, event: Any) -> None:
        """The handshake's head is whole; the application is told how it learns of the end."""
        super().handle_connect(event)
        if self.response.status_code == _SWITCHING:
            self.scope["extensions"][GONE] = self._gone  # type: ignore[index]

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, whether or not anybody receives."""
        self._gone.set()
        self._unfinished.is_now(0)
        super().connection_lost(exc)


SERVER_OPTIONS: Final[Mapping[str, Any]] = {
    "http": BoundedHttp,
    "ws": BoundedSocket,
    "ws_max_size": MESSAGE_LIMIT_B,
    "ws_ping_timeout": _PONG_TIMEOUT_S,
    # Compression costs 100 KB of memory a connection, for messages that are mostly short or compressed already.
    "ws_per_message_deflate": False,
    "server_header": False,
    # Whose word on the client's address is believed, our own settings say.
    "proxy_headers": False,
    "lifespan": "off",
    "access_log": False,
    "log_config": None,
}
"""What `uvicorn.Config` is given by every program of ours, beside where and how long it serves."""

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
