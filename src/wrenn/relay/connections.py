"""Client connections to a peer that may be hostile: whatever arrives before it was asked for is bounded.

aiohttp's own protocol parses everything that a read returns in one go, keeps every interim response (1xx)
until somebody reads it, and closes a connection only after all pending output was sent. Here bytes are parsed
in small pieces, a few in each turn of the event loop and as fast as the peer's `Pace` allows; heads are
limited in size, time and number of interim responses; and closing ends with an abort.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from functools import partial
from typing import Any, Final
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from wrenn.base.units import KIB
from wrenn.relay.message_budget import IncompleteMessage
from wrenn.relay.pace import Pace
from wrenn.relay.unanswered import is_unanswered

HEAD_LIMIT_B: Final = 256 * KIB
"""Limit on all bytes that arrive before the head of a response is complete, interim responses included."""
INTERIM_LIMIT: Final = 16
"""Limit on interim responses (1xx) before the response. They are parsed and dropped."""
HEAD_TIMEOUT_S: Final = 60.0
"""From the first byte of a head, interim or final, to its end."""
FLUSH_S: Final = 2.0
"""How long a closed connection may go on sending pending output before it is aborted."""
_HEAD_PIECE_B: Final = 4 * KIB
_SOCKET_PIECE_B: Final = 8 * KIB
_CHUNKED_PIECE_B: Final = 16 * KIB
_BODY_PIECE_B: Final = 64 * KIB
"""Sizes of the pieces that are parsed in one go. The worst input (interim responses, frames of two bytes,
chunks of one byte) takes about 10 ms."""
_CONTROL_HEAD_B: Final = 2
"""Size of the header of a ping or pong from a server, which is not masked and has a payload of at most 125 bytes."""
_SMALL_B: Final = 512
_SMALL_COST_S: Final = 0.2e-6
"""Charged for each byte of a piece that is too small for its parsing to be timed."""
_READER_FACTOR: Final = 2
"""Reading the parsed data costs about as much as parsing it, measured for a body in chunks of one byte."""
_TURN_S: Final = 0.002
"""How long pieces of one connection are parsed in a row before the event loop gets control back."""
_UNANSWERED_LOOKS: Final = 3
_INTERIM: Final = range(100, 200)
_SWITCHING: Final = 101


class PacedConnection(ResponseHandler):
    """One connection, whose received bytes wait in `_unread` to be parsed. Meanwhile the socket is not read.

    The end of the connection is processed after all bytes before it, so that no part of a response is lost.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pace: Pace, *, unanswered_s: float | None = None
    ) -> None:
        super().__init__(loop)
        self._pace = pace
        self._unread: deque[bytes] = deque()
        self._offset = 0  # offset in the first item of `_unread`
        self._turn: asyncio.Handle | None = None
        self._is_parsing = False
        self._is_paused_by_turns = False
        # Set when the connection ended before everything received on it was parsed.
        self._pending_loss: list[BaseException | None] = []
        self._ended = False
        # Input is discarded from now on.
        self._is_discarding = False
        self._is_answered = False
        self._body_piece_b = _CHUNKED_PIECE_B
        self._head_b = 0
        self._interim = 0
        self._head_timer: asyncio.TimerHandle | None = None
        # For a WebSocket whose messages are counted: bytes received since the last message was taken.
        self._incomplete: IncompleteMessage | None = None
        self._untaken_b = 0
        self._look_every_s = None if unanswered_s is None else unanswered_s / _UNANSWERED_LOOKS
        self._next_look: asyncio.TimerHandle | None = None
        self._unanswered_looks = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to look whether the peer's machine is still there."""
        super().connection_made(transport)
        if self._look_every_s is not None:
            self._next_look = self._loop.call_later(self._look_every_s, self._look, self._look_every_s)

    def _look(self, interval_s: float) -> None:
        if self.transport is None:
            return
        unanswered = is_unanswered(self.transport, for_s=interval_s)
        self._unanswered_looks = self._unanswered_looks + 1 if unanswered else 0
        if self._unanswered_looks >= _UNANSWERED_LOOKS:
            self.transport.abort()
        else:
            self._next_look = self._loop.call_later(interval_s, self._look, interval_s)

    def count_messages(self) -> None:
        """Limit the memory of incomplete messages. The reader reports each message by `message_taken`."""
        self._incomplete = IncompleteMessage(self.abort)

    def message_taken(self) -> None:
        """Record that the reader has taken a message."""
        if self._incomplete is not None:
            self._untaken_b = 0
            self._incomplete.set_size(0)

    def control_frame_taken(self, payload_b: int) -> None:
        """Record that the reader has taken a ping or pong. It is not part of a message, but may arrive between two fragments of one."""
        self._untaken_b -= _CONTROL_HEAD_B + payload_b

    def set_response_params(self, **params: Any) -> None:
        """Begin an exchange."""
        self._is_answered = False
        self._head_b = self._interim = 0
        super().set_response_params(**params)

    @property
    def should_close(self) -> bool:
        """Whether this connection cannot be reused for another exchange."""
        return bool(self._unread) or super().should_close

    def data_received(self, data: bytes) -> None:
        """Handle received bytes. Empty data lets the parser continue with what it has buffered."""
        if self._is_discarding:
            return
        if self._is_parsing:
            super().data_received(data)
        elif not data:
            # At most one piece: what the parser has buffered.
            began_s = time.perf_counter()
            self._parse(data)
            self._pace.charge(_READER_FACTOR * (time.perf_counter() - began_s))
        elif self._is_complete():
            self._close_for_unexpected_data()
        elif len(data) <= _SMALL_B and self._turn is None and not self._unread and not self._pace.owed_s():
            # The common case, a small response, needs no turn of its own.
            self._parse(data)
            self._pace.charge(len(data) * _SMALL_COST_S)
        else:
            self._unread.append(data)
            if self._turn is None:
                self._take_turn()

    def _is_complete(self) -> bool:
        """Whether the whole response to the request has been received."""
        return self._is_answered and not self._upgraded and (self._payload is None or self._payload.is_eof())

    def _close_for_unexpected_data(self) -> None:
        # Data after the response was not asked for and must not become the response to the next request.
        self._should_close = True
        self._discard_input()
        self._loop.call_soon(self.close)

    def _take_turn(self) -> None:
        """Parse for a limited time, then schedule the next turn, process the end of the connection, or resume reading."""
        self._turn = None
        owed_s = self._pace.owed_s()
        if not owed_s and self._unread and not self._is_blocked():
            began_s = time.perf_counter()
            while True:
                self._parse(self._piece())
                took_s = time.perf_counter() - began_s
                if not self._unread or self._is_blocked() or took_s > _TURN_S:
                    break
            # Wall time, not the thread's CPU time: on a busy machine the loop gets less CPU time than wall
            # time passes.
            self._pace.charge(_READER_FACTOR * took_s)
            owed_s = self._pace.owed_s()
        if self._is_discarding or self._is_blocked():
            return
        if self._unread or owed_s:
            self._pause()
            if self._turn is None:  # a reader may have scheduled one meanwhile
                self._turn = self._loop.call_later(owed_s, self._take_turn)
        elif self._pending_loss:
            self._end()
        elif self._is_paused_by_turns:
            self._is_paused_by_turns = False
            super()._resume_transport_reading()

    def _is_blocked(self) -> bool:
        """Whether the reader of the response has enough buffered or is not attached yet. `_resume_transport_reading` continues."""
        return self._reading_paused or self._buffer_paused

    def _pause(self) -> None:
        if not self._is_paused_by_turns:
            self._is_paused_by_turns = True
            self._pause_transport_reading()

    def _piece(self) -> bytes:
        if not self._is_answered:
            limit_b = _HEAD_PIECE_B
        else:
            limit_b = _SOCKET_PIECE_B if self._upgraded else self._body_piece_b
        data, begin = self._unread[0], self._offset
        end = begin + limit_b
        if end < len(data):
            self._offset = end
            return data[begin:end]
        self._unread.popleft()
        self._offset = 0
        return data[begin:] if begin else data

    def _parse(self, data: bytes) -> None:
        if not self._is_answered and data:
            self._head_b += len(data)
            if self._head_b > HEAD_LIMIT_B:
                self._refuse("the head of the response is too long")
                return
            if self._head_timer is None:
                self._head_timer = self._loop.call_later(
                    HEAD_TIMEOUT_S, self._refuse, "the head of the response was not complete in time"
                )
        self._is_parsing = True
        try:
            super().data_received(data)
        finally:
            self._is_parsing = False
        if self._incomplete is not None:
            self._untaken_b += len(data)
            self._incomplete.set_size(self._untaken_b)
        if not self._is_answered and self._interim and not self._is_discarding and self.transport is not None:
            # aiohttp's read timeout counts from the last response data, and an interim response is a sign of
            # life too.
            self._reschedule_timeout()

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Handle a complete head: of an interim response, of the response, or of one that was not asked for."""
        self._stop_head_timer()
        status = data[0].code
        if status in _INTERIM and status != _SWITCHING:
            self._interim += 1
            if self._interim > INTERIM_LIMIT:
                self._refuse("there are too many interim responses")
        elif self._is_answered:
            self._close_for_unexpected_data()
        elif not self._is_discarding:
            self._is_answered = True
            self._body_piece_b = _CHUNKED_PIECE_B if data[0].chunked else _BODY_PIECE_B
            super().feed_data(data, size)

    def _refuse(self, why: str) -> None:
        if self._is_discarding:
            return
        self._discard_input()
        self.set_exception(HttpProcessingError(code=502, message=why))
        if self.transport is not None:
            self.transport.abort()

    def _discard_input(self) -> None:
        self._is_discarding = True
        if self._incomplete is not None:
            self._incomplete.set_size(0)
            self._incomplete = None
        self._stop_head_timer()
        self._unread.clear()
        self._offset = 0
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._pause_transport_reading()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _resume_transport_reading(self) -> None:
        if self._is_discarding:
            return
        if self._is_parsing or self._unread or self._pending_loss or self._is_paused_by_turns:
            # The reader asks for more. From here on the turns control the socket, and they resume it when
            # everything is parsed.
            self._is_paused_by_turns = True
            # In a turn of its own: a reader that takes everything at once would otherwise cause everything to
            # be parsed at once.
            if self._turn is None:
                self._turn = self._loop.call_soon(self._take_turn)
        else:
            super()._resume_transport_reading()

    def _drain_tail(self) -> None:
        # What follows the head of an upgrade response is parsed before data that arrived later.
        if self._tail:
            if self._offset:
                self._unread[0] = self._unread[0][self._offset :]
                self._offset = 0
            self._unread.appendleft(self._tail)
            self._tail = b""
        super()._drain_tail()
        if self._unread and self._turn is None and not self._is_parsing:
            self._turn = self._loop.call_soon(self._take_turn)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Handle the end of the connection once everything before it is parsed."""
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        if self._unread and not self._is_discarding:
            self._pending_loss = [exc]
            if self._turn is None and not self._is_blocked():
                self._turn = self._loop.call_soon(self._take_turn)
            return
        self._pending_loss = [exc]
        self._end()

    def _end(self) -> None:
        if not self._ended and self._pending_loss:
            self._ended = True
            self._discard_input()
            super().connection_lost(self._pending_loss[0])

    def close(self) -> None:
        """Close the connection. Pending output may still be sent for `FLUSH_S`, after which the connection is aborted."""
        transport = self.transport
        was_closing = transport is None or transport.is_closing()
        self._discard_input()
        super().close()
        # A TLS transport that is closed a second time no longer has a write buffer whose size could be read.
        if transport is not None and (was_closing or transport.get_write_buffer_size()):
            self._loop.call_later(FLUSH_S, transport.abort)
        self._end()

    def abort(self) -> None:
        """Abort the connection without sending pending output."""
        self._discard_input()
        super().abort()
        self._end()


class PacedConnector(aiohttp.TCPConnector):
    """A connector for connections that can all be aborted at once.

    With `unanswered_s`, one breaks when the peer's machine has acknowledged nothing of what was sent for about so long. A peer that does
    not read is another matter.
    """

    def __init__(self, pace: Pace, *, unanswered_s: float | None = None, **options: Any) -> None:
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType] - a parameter that we do not use
        self._pace = pace
        self._unanswered_s = unanswered_s
        self._made: WeakSet[PacedConnection] = WeakSet()
        # aiohttp has no public way to choose the protocol class of its connections.
        self._factory = partial(self._make)  # type: ignore[assignment]

    def _make(self) -> PacedConnection:
        connection = PacedConnection(self._loop, self._pace, unanswered_s=self._unanswered_s)
        self._made.add(connection)
        return connection

    @property
    def connections(self) -> int:
        """Number of connections made by this connector that are still referenced."""
        return len(self._made)

    def cut_to(self, server_name: str) -> None:
        """Break the connections whose servers had to have a certificate for this name; who waits for an answer gets an error."""
        for connection in list(self._made):
            transport = connection.transport
            tls = None if transport is None else transport.get_extra_info("ssl_object")
            if transport is not None and tls is not None and tls.server_hostname == server_name:
                transport.abort()

    def cut(self) -> None:
        """Abort all connections, including those with an exchange in progress."""
        for connection in list(self._made):
            connection.abort()


def keepalive_socket(address: tuple[Any, ...]) -> socket.socket:
    """Return a socket with TCP keep-alive, so that a vanished peer is detected within about half a minute. For connectors."""
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    return made


class IgnoredCookies(aiohttp.DummyCookieJar):
    """Ignores cookies without parsing them: a guest could send long headers that are slow to parse."""

    def update_cookies_from_headers(self, headers: Any, response_url: URL) -> None:
        """Do nothing."""
