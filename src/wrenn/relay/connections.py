"""Connections of the HTTP client to a peer that may be hostile: what is read before anybody asked for it is bounded.

The HTTP client's own protocol parses whatever a read returns in one go, keeps every interim answer (1xx) until somebody reads
it, and closes a connection only when all that was written has been taken. Here bytes are parsed in small pieces, a few each turn of the loop and as
fast as the peer's `Pace` allows; heads have a limit in bytes, time and interim answers; and closing ends with an abort.
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
from wrenn.relay.pace import Pace
from wrenn.relay.unfinished import Unfinished

HEAD_LIMIT_B: Final = 256 * KIB
"""All that may come before the head of an answer is whole, interim answers included."""
INTERIM_LIMIT: Final = 16
"""Interim answers (1xx) before the answer. They are read and dropped."""
HEAD_TIMEOUT_S: Final = 60.0
"""From the first byte of a head, also of an interim answer's, to its end."""
FLUSH_S: Final = 2.0
"""How long a closed connection may go on sending what was written before it is cut."""
_HEAD_PIECE_B: Final = 4 * KIB
_SOCKET_PIECE_B: Final = 8 * KIB
_CHUNKED_PIECE_B: Final = 16 * KIB
_BODY_PIECE_B: Final = 64 * KIB
"""What is parsed in one go, before anything is looked at: the worst of it (interim answers, frames of two bytes, chunks of one
byte) takes some 10 ms."""
_CONTROL_HEAD_B: Final = 2
"""Of a ping or pong of a server, which is not masked and has at most 125 bytes."""
_SMALL_B: Final = 512
_SMALL_COST_S: Final = 0.2e-6
"""For each byte of a piece that is too small to be worth a look at the clock."""
_READER_FACTOR: Final = 2
"""Whoever reads what was parsed does about as much again, for a body in chunks of one byte."""
_TURN_S: Final = 0.002
"""How long pieces of one connection are parsed in a row before others get their turn."""
_INTERIM: Final = range(100, 200)
_SWITCHING: Final = 101


class PacedConnection(ResponseHandler):
    """One connection. Its bytes wait in `_unread` until it is their turn; meanwhile nothing is read from the socket.

    The end of the connection waits behind them, so that no byte of an answer is lost.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, pace: Pace) -> None:
        super().__init__(loop)
        self._pace = pace
        self._unread: deque[bytes] = deque()
        self._offset = 0  # in the first of them
        self._turn: asyncio.Handle | None = None
        self._is_parsing = False
        self._is_held = False
        # Set when the connection ended before all that came on it was parsed.
        self._lost: list[BaseException | None] = []
        self._ended = False
        # Nothing that comes is of any use any more.
        self._is_deaf = False
        self._is_answered = False
        self._body_piece_b = _CHUNKED_PIECE_B
        self._head_b = 0
        self._interim = 0
        self._head_timer: asyncio.TimerHandle | None = None
        # Of a WebSocket whose messages are counted: what came since one was taken.
        self._unfinished: Unfinished | None = None
        self._untaken_b = 0

    def count_messages(self) -> None:
        """Bound what is held of messages; whoever reads them says so by `message_taken`."""
        self._unfinished = Unfinished(self.abort)

    def message_taken(self) -> None:
        """The reader has taken a message."""
        if self._unfinished is not None:
            self._untaken_b = 0
            self._unfinished.is_now(0)

    def control_frame_taken(self, payload_b: int) -> None:
        """The reader has taken a ping or a pong. It is no part of a message, but may stand between two parts."""
        self._untaken_b -= _CONTROL_HEAD_B + payload_b

    def set_response_params(self, **params: Any) -> None:
        """An exchange begins."""
        self._is_answered = False
        self._head_b = self._interim = 0
        super().set_response_params(**params)

    @property
    def should_close(self) -> bool:
        """Whether this connection cannot be used for another exchange."""
        return bool(self._unread) or super().should_close

    def data_received(self, data: bytes) -> None:
        """Bytes came, or (none) the parser goes on with what it held back."""
        if self._is_deaf:
            return
        if self._is_parsing:
            super().data_received(data)
        elif not data:
            # At most a piece: what the parser held back.
            began_s = time.perf_counter()
            self._parse(data)
            self._pace.charge(_READER_FACTOR * (time.perf_counter() - began_s))
        elif self._is_complete():
            self._end_uninvited()
        elif len(data) <= _SMALL_B and self._turn is None and not self._unread and not self._pace.owed_s():
            # What most answers are: no turn is needed.
            self._parse(data)
            self._pace.charge(len(data) * _SMALL_COST_S)
        else:
            self._unread.append(data)
            if self._turn is None:
                self._take_turn()

    def _is_complete(self) -> bool:
        """All of the answer that was asked for has come."""
        return self._is_answered and not self._upgraded and (self._payload is None or self._payload.is_eof())

    def _end_uninvited(self) -> None:
        # What follows an answer is nobody's: it must not become the answer of the next request.
        self._should_close = True
        self._make_deaf()
        self._loop.call_soon(self.close)

    def _take_turn(self) -> None:
        """Parse for a moment, then see what comes next: more in another turn, the end, or the socket."""
        self._turn = None
        owed_s = self._pace.owed_s()
        if not owed_s and self._unread and not self._is_blocked():
            began_s = time.perf_counter()
            while True:
                self._parse(self._piece())
                took_s = time.perf_counter() - began_s
                if not self._unread or self._is_blocked() or took_s > _TURN_S:
                    break
            # Not the thread's CPU time: on a busy machine the loop has less of it than there is time.
            self._pace.charge(_READER_FACTOR * took_s)
            owed_s = self._pace.owed_s()
        if self._is_deaf or self._is_blocked():
            return
        if self._unread or owed_s:
            self._hold()
            if self._turn is None:  # a reader may have asked for one meanwhile
                self._turn = self._loop.call_later(owed_s, self._take_turn)
        elif self._lost:
            self._end()
        elif self._is_held:
            self._is_held = False
            super()._resume_transport_reading()

    def _is_blocked(self) -> bool:
        """Whoever reads the answer has enough, or is not there yet; `_resume_transport_reading` goes on."""
        return self._reading_paused or self._buffer_paused

    def _hold(self) -> None:
        if not self._is_held:
            self._is_held = True
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
                self._refuse("the head of the answer is too long")
                return
            if self._head_timer is None:
                self._head_timer = self._loop.call_later(
                    HEAD_TIMEOUT_S, self._refuse, "the head of the answer did not end in time"
                )
        self._is_parsing = True
        try:
            super().data_received(data)
        finally:
            self._is_parsing = False
        if self._unfinished is not None:
            self._untaken_b += len(data)
            self._unfinished.is_now(self._untaken_b)
        if not self._is_answered and self._interim and not self._is_deaf and self.transport is not None:
            # The client takes an interim answer for the end of the silence.
            self._reschedule_timeout()

    def feed_data(self, data: Any, size: int = 0) -> None:
        """A head is whole: of an interim answer, of the answer, or of one that nobody asked for."""
        self._stop_head_timer()
        status = data[0].code
        if status in _INTERIM and status != _SWITCHING:
            self._interim += 1
            if self._interim > INTERIM_LIMIT:
                self._refuse("there are too many interim answers")
        elif self._is_answered:
            self._end_uninvited()
        elif not self._is_deaf:
            self._is_answered = True
            self._body_piece_b = _CHUNKED_PIECE_B if data[0].chunked else _BODY_PIECE_B
            super().feed_data(data, size)

    def _refuse(self, why: str) -> None:
        if self._is_deaf:
            return
        self._make_deaf()
        self.set_exception(HttpProcessingError(code=502, message=why))
        if self.transport is not None:
            self.transport.abort()

    def _make_deaf(self) -> None:
        self._is_deaf = True
        if self._unfinished is not None:
            self._unfinished.is_now(0)
            self._unfinished = None
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
        if self._is_deaf:
            return
        if self._is_parsing or self._unread or self._lost or self._is_held:
            # Whoever asks for more paused the socket. From here on it is held by the turns, which let go of it at the end.
            self._is_held = True
            # In a turn of its own: a reader that takes everything would else parse everything.
            if self._turn is None:
                self._turn = self._loop.call_soon(self._take_turn)
        else:
            super()._resume_transport_reading()

    def _drain_tail(self) -> None:
        # What came behind the head of an upgrade is parsed before what came after it.
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
        """The end, once all that came before it is parsed."""
        if self._unread and not self._is_deaf:
            self._lost = [exc]
            if self._turn is None and not self._is_blocked():
                self._turn = self._loop.call_soon(self._take_turn)
            return
        self._lost = [exc]
        self._end()

    def _end(self) -> None:
        if not self._ended and self._lost:
            self._ended = True
            self._make_deaf()
            super().connection_lost(self._lost[0])

    def close(self) -> None:
        """End the connection; what was written may still be sent, but not for ever."""
        transport = self.transport
        was_closing = transport is None or transport.is_closing()
        self._make_deaf()
        super().close()
        # A TLS transport that is closed a second time has no buffer any more to ask about.
        if transport is not None and (was_closing or transport.get_write_buffer_size()):
            self._loop.call_later(FLUSH_S, transport.abort)
        self._end()

    def abort(self) -> None:
        """Cut the connection."""
        self._make_deaf()
        super().abort()
        self._end()


class PacedConnector(aiohttp.TCPConnector):
    """Connections to one guest, which can all be cut at once."""

    def __init__(self, pace: Pace, **options: Any) -> None:
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType] - a parameter that we do not use
        self._pace = pace
        self._made: WeakSet[PacedConnection] = WeakSet()
        # The library has no public place to say which protocol its connections have.
        self._factory = partial(self._make)  # type: ignore[assignment]

    def _make(self) -> PacedConnection:
        connection = PacedConnection(self._loop, self._pace)
        self._made.add(connection)
        return connection

    @property
    def connections(self) -> int:
        """How many connections that it made are still held by anybody."""
        return len(self._made)

    def cut(self) -> None:
        """Cut all connections without a word, whatever is under way on them."""
        for connection in list(self._made):
            connection.abort()


def noticing_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket on which a peer that vanished, and that nobody sends anything to, is noticed after a minute. For connectors."""
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    return made


class NoCookies(aiohttp.DummyCookieJar):
    """Does not even parse what it is given: a guest's headers are long and made to be slow."""

    def update_cookies_from_headers(self, headers: Any, response_url: URL) -> None:
        """Nothing."""
