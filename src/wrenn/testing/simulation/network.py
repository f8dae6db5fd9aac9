"""A network in memory behind the event loop's own interface, so that every client uses it unchanged.

`NetworkLoop` answers `sock_connect` and `create_connection` for all addresses; no packet leaves the program. Data arrives in order,
after latencies from the seed. An end of a connection can be halted (its virtual CPUs stand still) or cut (its machine is gone: the
other end hears nothing any more).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakKeyDictionary

from wrenn.base.units import KIB
from wrenn.testing.simulation.runs import Run, current_run
from wrenn.testing.virtual_time import VirtualTimeLoop

_HIGH_WATER_B: Final = 64 * KIB
"""A sender is paused while more than this is under way or unread."""
_APART_S: Final = 1e-7

_P = TypeVar("_P", bound=asyncio.BaseProtocol)


class Listener(Protocol):
    """What answers at an address."""

    async def accept(self, port: int) -> asyncio.Protocol | None:
        """Return the protocol of a new connection; None: the port is closed. May take for ever: the caller has a deadline."""
        ...

    def accepted(self, transport: MemoryTransport) -> None:
        """Take note of the transport of a new connection."""
        ...


class Network:
    """Addresses, and the connections to them.

    `latency_s` draws the time that a piece of data takes.

    Attributes:
        resolve: returns the address to connect to for the one that is asked for: a load balancer.
    """

    def __init__(self, latency_s: Callable[[], float]) -> None:
        self.latency_s = latency_s
        self.resolve: Callable[[str], str] = lambda address: address
        self._listeners: dict[str, Listener] = {}
        # Dictionaries instead of sets, for their order.
        self._connections: dict[MemoryTransport, tuple[str, Run | None]] = {}

    def listen(self, address: str, listener: Listener) -> None:
        """Let `listener` answer at an address."""
        self._listeners[address] = listener

    def vanish(self, address: str, listener: Listener) -> None:
        """Have this listener no longer at the address. Idempotent."""
        if self._listeners.get(address) is listener:
            del self._listeners[address]

    async def reach(self, address: str, port: int) -> tuple[Listener, asyncio.Protocol]:
        """Return the protocol that serves a new connection.

        Raises:
            OSError: no machine is there, or nothing listens on the port.
        """
        await asyncio.sleep(self.latency_s())
        listener = self._listeners.get(address)
        if listener is None:
            raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
        protocol = await listener.accept(port)
        if protocol is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        return listener, protocol

    def join(
        self, address: str, client: asyncio.BaseProtocol, listener: Listener, server: asyncio.BaseProtocol
    ) -> MemoryTransport:
        """Connect two protocols and return the client's transport."""
        run = current_run()
        near = MemoryTransport(self, client, address)
        far = MemoryTransport(self, server, address if run is None else run.address)
        near.peer, far.peer = far, near
        self._connections[near] = address, run
        near.on_lost = self._forget
        listener.accepted(far)
        server.connection_made(far)
        client.connection_made(near)
        return near

    def _forget(self, transport: MemoryTransport) -> None:
        self._connections.pop(transport, None)

    def reset(self, address: str | None = None, *, opened_by: Run | None = None) -> None:
        """Abort all connections to an address, all that a run has opened, or without either all that there are.

        The abort is at the end of those who opened them.
        """
        for transport, (other, run) in list(self._connections.items()):
            if address in (None, other) and opened_by in (None, run):
                transport.abort()


class MemoryTransport(asyncio.Transport):
    """One end of a connection.

    Attributes:
        peer: the other end.
        on_lost: called with this transport when it ends.
    """

    def __init__(self, network: Network, protocol: asyncio.BaseProtocol, address: str) -> None:
        super().__init__({"peername": (address, 0), "sockname": (address, 0)})
        self.peer: MemoryTransport = self
        self.on_lost: Callable[[MemoryTransport], object] = lambda _transport: None
        self._network = network
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._arrives_at = 0.0
        self._inbox: deque[Callable[[], None]] = deque()
        self._unread_b = 0
        """What this end has sent and the other has not read."""
        self._is_reading = True
        self._is_halted = False
        self._is_cut = False
        self._is_pausing = False
        self._is_closing = False
        self._is_lost = False
        self._has_sent_end = False

    def halt(self, *, halted: bool) -> None:
        """Stop or continue to deliver data to this end."""
        self._is_halted = halted
        self._read_inbox()

    def cut(self) -> None:
        """End this end at once, without any sign to the other."""
        self._is_cut = True
        self._lose(None)

    def _send(self, act: Callable[[], None]) -> None:
        """Have the other end do something after the latency, in the order of the calls."""
        if self._is_cut:
            return
        # Never at the same time as what was sent before: a loop does not keep the order of such timers.
        earliest = self._arrives_at + _APART_S
        self._arrives_at = max(earliest, self._loop.time() + self._network.latency_s())
        self._loop.call_at(self._arrives_at, self.peer._arrive, act)

    def _arrive(self, act: Callable[[], None]) -> None:
        if not self._is_lost:
            self._inbox.append(act)
            self._read_inbox()
        elif not self._is_cut and not self.peer._is_lost:
            self.peer._lose(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))

    def _read_inbox(self) -> None:
        while self._inbox and self._is_reading and not self._is_halted and not self._is_lost:
            self._inbox.popleft()()

    def write(self, data: Any) -> None:
        """Send bytes."""
        if self._is_lost or self._has_sent_end or not data:
            return
        piece = bytes(data)
        self._unread_b += len(piece)
        self._send(lambda: self.peer._receive(piece))
        if self._unread_b > _HIGH_WATER_B and not self._is_pausing:
            self._is_pausing = True
            self._protocol.pause_writing()

    def _receive(self, piece: bytes) -> None:
        self.peer._has_been_read(len(piece))
        if isinstance(self._protocol, asyncio.BufferedProtocol):
            raise TypeError("buffered protocols are not supported")
        self._protocol.data_received(piece)  # type: ignore[attr-defined] - asyncio types it as BaseProtocol

    def _has_been_read(self, size_b: int) -> None:
        self._unread_b -= size_b
        if self._is_pausing and self._unread_b <= _HIGH_WATER_B // 4 and not self._is_lost:
            self._is_pausing = False
            self._protocol.resume_writing()

    def can_write_eof(self) -> bool:
        """Return True."""
        return True

    def write_eof(self) -> None:
        """Tell the other end that nothing more is sent."""
        if not self._has_sent_end:
            self._has_sent_end = True
            self._send(self.peer._receive_end)

    def _receive_end(self) -> None:
        if not self._protocol.eof_received():  # type: ignore[attr-defined] - as above
            self.close()

    def close(self) -> None:
        """End this end; the other receives everything that was sent."""
        if not self._is_closing:
            self.write_eof()
            self._is_closing = True
            self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        """End both ends; what is under way is lost."""
        if not self._is_lost and not self._has_sent_end:
            self._send(
                lambda: self.peer._lose(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))
            )
        self._has_sent_end = self._is_closing = True
        self._loop.call_soon(self._lose, None)

    def _lose(self, error: Exception | None) -> None:
        if not self._is_lost:
            self._is_lost = self._is_closing = True
            self._inbox.clear()
            self.on_lost(self)
            self._protocol.connection_lost(error)

    def is_closing(self) -> bool:
        """Return whether this end is closing or closed."""
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        """Return 0: what is sent is under way at once."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: the limits are fixed."""

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the fixed limits."""
        return _HIGH_WATER_B // 4, _HIGH_WATER_B

    def is_reading(self) -> bool:
        """Return whether data is delivered to the protocol."""
        return self._is_reading and not self._is_closing

    def pause_reading(self) -> None:
        """Deliver nothing until `resume_reading`."""
        self._is_reading = False

    def resume_reading(self) -> None:
        """Deliver again."""
        self._is_reading = True
        self._loop.call_soon(self._read_inbox)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let another protocol go on."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the current protocol."""
        return self._protocol


class NetworkLoop(VirtualTimeLoop):
    """A virtual-time loop whose connections all go through the network that `network_of` gives for their address.

    `may_connect` raises if the caller may not. TLS is left out: the contexts that clients give are not used.
    """

    def __init__(
        self,
        network_of: Callable[[str], Network],
        may_connect: Callable[[], object],
        thread_s: Callable[[], float],
    ) -> None:
        super().__init__(thread_s)
        self._network_of = network_of
        self._may_connect = may_connect
        self._reached: WeakKeyDictionary[socket.socket, tuple[str, Listener, asyncio.Protocol]] = (
            WeakKeyDictionary()
        )

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect in memory; `create_connection` with the same socket then has the connection."""
        self._may_connect()
        network, port = self._network_of(address[0]), address[1]
        host = network.resolve(address[0])
        self._reached[sock] = (host, *await network.reach(host, port))

    async def create_connection(  # type: ignore[override] - of the many parameters only those that are used here
        self,
        protocol_factory: Callable[[], _P],
        host: str | None = None,
        port: int | None = None,
        *,
        sock: socket.socket | None = None,
        **_options: Any,
    ) -> tuple[asyncio.Transport, _P]:
        """Connect in memory to an address, or take the connection of a socket."""
        self._may_connect()
        if sock is not None:
            host, listener, server = self._reached.pop(sock)
            sock.close()
        else:
            assert host is not None, "an address or a socket is given"
            assert port is not None, "an address or a socket is given"
            network = self._network_of(host)
            host = network.resolve(host)
            listener, server = await network.reach(host, port)
        client = protocol_factory()
        return self._network_of(host).join(host, client, listener, server), client
