"""Connections of simulated programs to a real PostgreSQL, in virtual time.

What a driver sends reaches the server after a virtual latency. Then the event loop stands still until the server has answered, so
that no virtual time passes while a statement runs, and statements run one after the other. Only one that waits for another
session's lock is left waiting, and is looked after again whenever another statement has ended; transactions overlap as they do in
production. The loop goes on when every statement has either been answered or waits for a lock, so the order of answers does not
depend on how fast the server is.

The server's time is the virtual time: `SQL` makes functions in the schema `public`, and the search path of these sessions has them
found before the functions of the same name that all our statements, defaults and triggers call; its random ids are not random either.
Notifications are delivered by this
module, which may lose them.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from wrenn.testing.simulation.runs import Run, current_run, require_alive
from wrenn.testing.virtual_time import EPOCH

_P = TypeVar("_P", bound=asyncio.BaseProtocol)

_NOTICE: Final = "wrenn-notify "
SQL: Final = f"""
CREATE OR REPLACE FUNCTION public.now() RETURNS timestamptz STABLE LANGUAGE sql AS
    $$ SELECT COALESCE(NULLIF(current_setting('wrenn.now', true), '')::timestamptz, pg_catalog.now()) $$;
CREATE SEQUENCE IF NOT EXISTS public.simulated_instants;
CREATE OR REPLACE FUNCTION public.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql AS
    $$ SELECT public.now() + pg_catalog.make_interval(0, 0, 0, 0, 0, 0, nextval('public.simulated_instants') / 1000000.0) $$;
CREATE OR REPLACE FUNCTION public.gen_random_uuid() RETURNS uuid VOLATILE LANGUAGE sql AS
    $$ SELECT md5(nextval('public.simulated_instants')::text)::uuid $$;
CREATE OR REPLACE FUNCTION public.pg_notify(channel text, payload text) RETURNS void VOLATILE LANGUAGE plpgsql AS
    $$ BEGIN RAISE NOTICE '{_NOTICE}% %', channel, payload; END $$;
"""
"""Makes the functions by which the server's time is set and notifications are seen."""
SEARCH_PATH: Final = "public, pg_catalog"

_SETTINGS: Final = {
    "search_path": SEARCH_PATH,
    # Limits in real time mean nothing here.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "deadlock_timeout": "1ms",
    # Each connection is used for so few statements that a plan for their values is never cheaper than the time to make it.
    "plan_cache_mode": "force_generic_plan",
    "client_min_messages": "notice",
}
_IDLE_IN_TRANSACTION_S: Final = 15.0
"""As the control plane asks for."""
_LOCK_TIMEOUT_S: Final = 5.0
"""Virtual seconds that a statement waits for a lock, as `control/db/engine.py` sets it."""
_ANSWER_S: Final = 0.02
"""Real seconds after which it is asked whether a statement waits for a lock."""
_BLOCKERS: Final = """
SELECT string_agg(pid || ' ' || other, ',') FROM unnest(ARRAY:pids) AS pid, unnest(pg_blocking_pids(pid)) AS other
"""
_HEAD: Final = struct.Struct(">cI")
_INT: Final = struct.Struct(">I")
_PROTOCOL: Final = 196608
_ENDS: Final = frozenset(b"QSHp")
"""Messages of a driver after which the server answers."""


def _parameters(values: dict[str, str]) -> bytes:
    return b"".join(f"{name}\0{value}\0".encode() for name, value in values.items())


def _query(sql: str) -> bytes:
    body = sql.encode() + b"\0"
    return _HEAD.pack(b"Q", len(body) + 4) + body


def _messages(data: bytes) -> list[tuple[bytes, bytes]]:
    """The complete messages at the begin of `data`: kind and whole message."""
    found: list[tuple[bytes, bytes]] = []
    at = 0
    while len(data) - at >= _HEAD.size:
        kind, length = _HEAD.unpack_from(data, at)
        if len(data) - at < 1 + length:
            break
        found.append((kind, data[at : at + 1 + length]))
        at += 1 + length
    return found


class _Session:
    """One connection to the server, used by blocking calls.

    Attributes:
        is_idle: no transaction is open, and no statement is between its parts.
        pid: of the server's process.
        socket: to it.
    """

    def __init__(self, path: str, startup: bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self._received = bytearray()
        self._is_preparing = False
        self._has_own = False
        self._ready_left = 0
        self._parts: list[tuple[bytes, bytes]] = []
        self.is_idle = False
        self.pid = 0
        self.socket.sendall(startup)
        self._ready_left = 1
        while not self.poll(None):
            pass

    def send(self, group: bytes, *, last: int, before: bytes = b"") -> None:
        """Send messages, of which the last one has the kind `last`, and a statement of our own before them."""
        self._is_preparing = last == ord("H")
        self._ready_left += 0 if self._is_preparing else 1
        self._has_own = bool(before)
        self.socket.sendall(before + group)

    def _read(self, timeout_s: float | None) -> bool:
        if timeout_s is not None and not select.select([self.socket], [], [], timeout_s)[0]:
            return False
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionResetError("PostgreSQL has closed the connection.")
        self._received += data
        return True

    def poll(self, timeout_s: float | None) -> bool:
        """Read what the server has sent; whether the answer is complete now."""
        if not self._read(timeout_s):
            return False
        messages = _messages(bytes(self._received))
        del self._received[: sum(len(message) for _, message in messages)]
        self._parts += messages
        if self._has_own:
            # The answer to our own statement is left out.
            kinds = [kind for kind, _ in self._parts]
            if b"Z" not in kinds:
                return False
            del self._parts[: kinds.index(b"Z") + 1]
            self._has_own = False
        return self._is_complete()

    def _is_complete(self) -> bool:
        ready = [message for kind, message in self._parts if kind == b"Z"]
        if self._is_preparing:
            return bool(self._parts) and self._parts[-1][0] in (b"T", b"n", b"E")
        if len(ready) < self._ready_left:
            return False
        self._ready_left = 0
        self.is_idle = ready[-1][5:6] == b"I"
        for kind, message in self._parts:
            if kind == b"K":
                self.pid = _INT.unpack_from(message, 5)[0]
        return True

    def take(self) -> list[tuple[bytes, bytes]]:
        """Take the messages of a complete answer."""
        parts, self._parts = self._parts, []
        return parts

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


class SimulatedPostgres:
    """A PostgreSQL server as simulated programs reach it. `latency_s` draws the time of a message to it, or from it.

    Attributes:
        is_down: nobody can connect.
        loses_notification: says for each notification to each listener whether it is lost.
        statements: how many have been carried out.
        unreachable: addresses of machines that do not reach it, as `cut_off` says.
    """

    def __init__(self, path: str, user: str, database: str, latency_s: Callable[[], float]) -> None:
        self.path = path
        self.latency_s = latency_s
        self.is_down = False
        self.loses_notification: Callable[[], bool] = lambda: False
        self.statements = 0
        self.unreachable: set[str] = set()
        self._admin = _Session(path, _startup({"user": user, "database": database}))
        self._transports: dict[PostgresTransport, None] = {}

    def connect(self, factory: Callable[[], _P]) -> tuple[PostgresTransport, _P]:
        """Connect a driver.

        Raises:
            ConnectionRefusedError: the server is down.
        """
        require_alive()
        if self.is_down:
            raise ConnectionRefusedError("PostgreSQL is down.")
        protocol = factory()
        transport = PostgresTransport(self, protocol, current_run())
        self._transports[transport] = None
        protocol.connection_made(transport)
        return transport, protocol

    def is_cut_off(self, run: Run | None) -> bool:
        """Whether a run is on a machine that does not reach the server."""
        return run is not None and run.address in self.unreachable

    def cut_off(self, address: str) -> None:
        """Cut the link to a machine: what either end sends arrives when it is restored, as with TCP, and neither end notices.

        The server ends sessions that are idle in a transaction, as it is told to; a program gives up by its own time-outs.
        """
        self.unreachable.add(address)
        for transport in self._of(address):
            transport.watch_idle_transaction()

    def reach_again(self, address: str) -> None:
        """Restore the link to a machine; what was sent meanwhile arrives."""
        self.unreachable.discard(address)
        for transport in self._of(address):
            transport.reach_again()

    def _of(self, address: str) -> list[PostgresTransport]:
        return [each for each in self._transports if each.run is not None and each.run.address == address]

    def ask_aside(self, sql: str) -> str:
        """Ask the server outside of virtual time, and return the first value of the first row; empty: there is no row."""
        return self._ask(sql)

    def forget(self, transport: PostgresTransport) -> None:
        """Take note that a connection has ended. Idempotent."""
        self._transports.pop(transport, None)

    def settle(self, wait_s: float = 0.0) -> None:
        """Wait until each statement is answered or waits for a lock, and deliver the answers in the order of the connections.

        It is not asked for locks before `wait_s` real seconds have passed without an answer.
        """
        while waiting := [
            each for each in self._transports if each.waits_for_answer and not each.has_answer()
        ]:
            if select.select([each.socket for each in waiting], [], [], wait_s)[0]:
                wait_s = 0.0
            elif self._are_blocked([each.pid for each in waiting]):
                break
            else:
                wait_s = _ANSWER_S
        for transport in list(self._transports):
            transport.take_answer()

    def _are_blocked(self, pids: list[int]) -> bool:
        """Whether each of these sessions waits for another one's lock, and not all in a circle, which the server is about to break."""
        edges = self._ask(_BLOCKERS.replace(":pids", str(pids)))
        blockers: dict[int, set[int]] = {pid: set() for pid in pids}
        for edge in edges.split(",") if edges else ():
            pid, other = edge.split()
            blockers[int(pid)].add(int(other))
        if not all(blockers.values()):
            return False
        # Who waits only for sessions that do not wait, or for such as wait only for these, can be released.
        while free := [pid for pid, others in blockers.items() if not others & blockers.keys()]:
            for pid in free:
                del blockers[pid]
        return not blockers

    def cancel(self, pid: int) -> None:
        """Have a session's statement fail."""
        self._ask(f"SELECT pg_cancel_backend({pid})")

    def cut(self, run: Run | None = None) -> None:
        """End the connections of a run, or all, at once; the server has rolled back what was open when this returns."""
        transports = [each for each in self._transports if run is None or each.run is run]
        for transport in transports:
            transport.cut()

    def terminate(self, pid: int) -> None:
        """End a session; its transaction is rolled back when this returns."""
        self._ask(f"SELECT pg_terminate_backend({pid}, 10000)")
        self.settle()

    def publish(self, channel: bytes, payload: bytes, pid: int) -> None:
        """Deliver a notification to all that listen."""
        body = _INT.pack(pid) + channel + b"\0" + payload + b"\0"
        message = _HEAD.pack(b"A", len(body) + 4) + body
        for transport in list(self._transports):
            if channel in transport.channels and not self.loses_notification():
                transport.deliver(message)

    def _ask(self, sql: str) -> str:
        self._admin.send(_query(sql), last=ord("Q"))
        while not self._admin.poll(None):
            pass
        for kind, message in self._admin.take():
            assert kind != b"E", message
            if kind == b"D":
                length = _INT.unpack_from(message, 7)[0]
                return message[11 : 11 + length].decode()
        return ""

    def close(self) -> None:
        """Close all connections."""
        self.unreachable.clear()
        self.cut()
        self._admin.close()


def _startup(parameters: dict[str, str]) -> bytes:
    body = _INT.pack(_PROTOCOL) + _parameters(parameters) + b"\0"
    return _INT.pack(len(body) + 4) + body


class PostgresTransport(asyncio.Transport):
    """A driver's end of one connection.

    Attributes:
        run: the program's run that opened it.
        channels: what it listens to.
        waits_for_answer: its statement is being executed, or waits for another session's lock.
    """

    def __init__(self, server: SimulatedPostgres, protocol: asyncio.BaseProtocol, run: Run | None) -> None:
        super().__init__({"peername": server.path})
        self.run = run
        self.channels: dict[bytes, None] = {}
        self.waits_for_answer = False
        self._has_answer = False
        self._broken: OSError | None = None
        self._server = server
        self._protocol: Any = protocol
        self._loop = asyncio.get_running_loop()
        self._session: _Session | None = None
        self._unsent = bytearray()
        self._is_synced = True
        self._arrives_at = 0.0
        self._notified: dict[tuple[bytes, bytes], None] = {}
        self._lock_timer: asyncio.TimerHandle | None = None
        self._is_closing = False
        self._is_lost = False
        # What arrives when the link is restored.
        self._held: list[Callable[[], object]] = []
        self._was_ended = False

    def write(self, data: Any) -> None:
        """Send bytes to the server."""
        if not self._is_lost and (self.run is None or not self.run.is_dead):
            piece = bytes(data)
            self._later(lambda: self._arrive(piece))

    def writelines(self, list_of_data: Any) -> None:
        """Send several pieces."""
        self.write(b"".join(bytes(piece) for piece in list_of_data))

    def _later(self, act: Callable[[], object]) -> None:
        """Do something after the latency, in the order of the calls."""
        self._arrives_at = max(self._arrives_at + 1e-7, self._loop.time() + self._server.latency_s())
        self._loop.call_at(self._arrives_at, self._pass, act)

    def _pass(self, act: Callable[[], object]) -> None:
        if self._server.is_cut_off(self.run):
            self._held.append(act)
        else:
            act()

    def reach_again(self) -> None:
        """Deliver what was sent while the link was cut."""
        held, self._held = self._held, []
        if self._is_lost:
            self._end_session()
        elif self._was_ended:
            self.cut()
        else:
            for act in held:
                self._later(act)

    def watch_idle_transaction(self) -> None:
        """Have the server end the session if it is in a transaction and hears nothing for as long as it may."""
        session = self._session
        if session is not None and not (session.is_idle and self._is_synced) and not self.waits_for_answer:
            self._loop.call_later(_IDLE_IN_TRANSACTION_S, self._end_if_cut_off)

    def _end_if_cut_off(self) -> None:
        session = self._session
        if session is not None and self._server.is_cut_off(self.run) and not session.is_idle:
            self._was_ended = True
            self._end_session()

    def _arrive(self, piece: bytes) -> None:
        if self._is_lost:
            return
        self._unsent += piece
        try:
            self._carry_out()
        except OSError as error:
            self._lose(error)

    def _carry_out(self) -> None:
        while not self.waits_for_answer:
            if self._session is None:
                if not self._connect():
                    return
                continue
            group = bytearray()
            for kind, message in _messages(bytes(self._unsent)):
                if kind == b"X":
                    self._lose(None)
                    return
                self._note_listening(kind, message)
                group += message
                if kind[0] in _ENDS:
                    break
            else:
                return
            del self._unsent[: len(group)]
            self._execute(self._session, bytes(group), kind[0])

    def _connect(self) -> bool:
        data = bytes(self._unsent)
        if len(data) < 8 or len(data) < _INT.unpack_from(data)[0]:
            return False
        length, code = struct.unpack_from(">II", data)
        if code != _PROTOCOL:
            # The request to cancel a statement, which nothing here needs: statements take no virtual time.
            self._lose(None)
            return False
        del self._unsent[:length]
        names = data[8 : length - 2].split(b"\0")
        given = {name.decode(): value.decode() for name, value in zip(names[::2], names[1::2], strict=True)}
        self._session = _Session(self._server.path, _startup(given | _SETTINGS))
        self._answer(self._session)
        return True

    def _note_listening(self, kind: bytes, message: bytes) -> None:
        if kind not in (b"P", b"Q"):
            return
        for word, listens in ((b'UNLISTEN "', False), (b'LISTEN "', True)):
            if word in message:
                channel = message.partition(word)[2].partition(b'"')[0]
                self.channels.pop(channel, None)
                if listens:
                    self.channels[channel] = None
                return

    def _execute(self, session: _Session, group: bytes, last: int) -> None:
        before = b""
        if session.is_idle and self._is_synced:
            before = _query(f"SET wrenn.now = '{self._now().isoformat()}'")
        self._is_synced = last != ord("H")
        self._server.statements += 1
        session.send(group, last=last, before=before)
        self.waits_for_answer = True
        self._server.settle(_ANSWER_S)
        if self.waits_for_answer and self._lock_timer is None:
            self._lock_timer = self._loop.call_later(_LOCK_TIMEOUT_S, self._end_lock_wait)

    def _now(self) -> datetime:
        return EPOCH + timedelta(seconds=self._loop.time())

    def _end_lock_wait(self) -> None:
        self._server.cancel(self.pid)
        while not self.has_answer():
            select.select([self.socket], [], [])
        self._server.settle()

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self._executing().pid

    @property
    def socket(self) -> socket.socket:
        """To the server's process."""
        return self._executing().socket

    def _executing(self) -> _Session:
        assert self._session is not None, "a statement is being executed"
        return self._session

    def has_answer(self) -> bool:
        """Whether the answer to the statement is complete, or the connection has broken."""
        if not self._has_answer:
            try:
                self._has_answer = self._executing().poll(0)
            except OSError as error:
                self._broken = error
                self._has_answer = True
        return self._has_answer

    def take_answer(self) -> None:
        """Deliver the answer if it is complete, and carry out what the driver has sent meanwhile."""
        if not self._has_answer:
            return
        self._stop_waiting()
        if self._broken is not None:
            self._lose(self._broken)
        else:
            self._answer(self._executing())
            self._carry_out()

    def _stop_waiting(self) -> None:
        self.waits_for_answer = self._has_answer = False
        if self._lock_timer is not None:
            self._lock_timer.cancel()
            self._lock_timer = None

    def _answer(self, session: _Session) -> None:
        """Deliver a complete answer, without the notices of notifications, which are sent if the transaction was committed."""
        forwarded = bytearray()
        is_undone = False
        for kind, message in session.take():
            text = message.partition(b"M" + _NOTICE.encode())[2] if kind == b"N" else b""
            if text:
                channel, _, payload = text.partition(b"\0")[0].partition(b" ")
                self._notified[channel, payload] = None
                continue
            is_undone = is_undone or kind == b"E" or (kind == b"C" and message[5:13] == b"ROLLBACK")
            forwarded += message
        answer = bytes(forwarded)
        self._later(lambda: self._receive(answer))
        if is_undone:
            self._notified.clear()
        elif session.is_idle and self._is_synced:
            for channel, payload in self._notified:
                self._server.publish(channel, payload, session.pid)
            self._notified.clear()
        if self._server.is_cut_off(self.run):
            self.watch_idle_transaction()

    def deliver(self, message: bytes) -> None:
        """Send something to the driver after the latency."""
        self._later(lambda: self._receive(message))

    def _receive(self, data: bytes) -> None:
        if not self._is_lost:
            self._protocol.data_received(data)

    def cut(self) -> None:
        """End the connection without the driver's doing."""
        self._lose(ConnectionResetError("The connection to PostgreSQL was reset."))

    def close(self) -> None:
        """End the connection."""
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        """End the connection."""
        self.close()

    def _lose(self, error: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = self._is_closing = True
        self._loop.call_soon(self._protocol.connection_lost, error)
        if self._server.is_cut_off(self.run):
            # The server does not learn of it, and keeps the session with its locks for as long as it may.
            self._loop.call_later(_IDLE_IN_TRANSACTION_S, self._end_session)
        else:
            self._end_session()

    def _end_session(self) -> None:
        """End the server's end. Idempotent."""
        self._stop_waiting()
        if self._is_lost:
            self._server.forget(self)
        session, self._session = self._session, None
        if session is not None:
            session.close()
            if not (session.is_idle and self._is_synced):
                self._server.terminate(session.pid)

    def is_closing(self) -> bool:
        """Return whether it is closing or closed."""
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        """Return 0: what is sent is under way at once."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: there is no limit."""

    def is_reading(self) -> bool:
        """Return True: answers are small, and always delivered."""
        return True

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let another protocol go on."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the current protocol."""
        return self._protocol
