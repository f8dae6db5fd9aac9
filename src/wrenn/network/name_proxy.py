"""Lets the connections of one sandbox to ports 80 and 443 through by the name of the server, without looking into TLS.

The firewall of the slot redirects these connections to the proxy. It reads the name from the first bytes, looks it up
itself and connects to what it finds: the address that the guest wanted to reach plays no part. So neither forged answers
to the guest's lookups nor a name in place of an address opens another server. The proxy's own connections begin in the
slot's namespace and carry a mark; there, the same rules as for the guest keep them from protected and private networks.

A name says which server is connected to, not what is asked of it: a server that serves several names serves them all.

All guests of a host share the agent's event loop. So what a guest has the proxy do is charged to its `Pace`, and no byte is
read before it may be passed on: the kernel's buffers fill, and the guest is slowed down.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from wrenn.base.faults import fault_point
from wrenn.base.host_names import HostPattern
from wrenn.base.on_failure import on_failure
from wrenn.base.tasks import OwnedTasks
from wrenn.base.undo import Undo
from wrenn.linux.namespace_sockets import listen_at, mark_packets, open_socket
from wrenn.linux.namespaces import KernelError
from wrenn.network.firewall import NAME_CONNECTIONS_LIMIT, NAME_PORTS, PROXY_MARK
from wrenn.network.name_lookup import NameLookup, NameUnknown
from wrenn.network.plan import TAP_ADDRESS
from wrenn.network.server_names import HEAD_LIMIT, NamesNoServer, http_server_name, tls_server_name
from wrenn.relay import Pace

_log = logging.getLogger(__name__)

HOST_CONNECTIONS_LIMIT: Final = 4096
"""Connections by name of all guests of a host beyond which each has its equal share only. Each takes two descriptors."""
HEAD_TIMEOUT_S: Final = 15.0
"""Within this time a client must have named the server."""
IDLE_TIMEOUT_S: Final = 3600.0
"""A connection over which nothing is sent for this time is closed."""
_CONNECT_TIMEOUT_S: Final = 5.0
_ALERT_TIMEOUT_S: Final = 5.0
_ACCEPT_RETRY_S: Final = 1.0
"""After an accept that failed, as when the agent has no descriptors left."""
_CONNECTION_COST: Final = 5
"""Messages that a connection is charged as: to accept it, and again to connect to its server by a thread."""
_ADDRESSES_TRIED: Final = 4
_READS_LIMIT: Final = 64
"""Most parts in which the head may come: the whole is read again after each."""
_PIECE_B: Final = 64 * 1024
"""Most bytes that each direction of a connection holds in memory."""
_ACCESS_DENIED: Final = bytes((21, 3, 3, 0, 2, 2, 49))
"""Fatal TLS alert `access_denied` (RFC 8446, 6.2)."""

_READ_NAME: Final[Mapping[int, Callable[[bytes], str | None]]] = {80: http_server_name, 443: tls_server_name}
assert _READ_NAME.keys() == set(NAME_PORTS), "every redirected port has a protocol"


class _Refused(Exception):
    """The connection is not let through."""


class ConnectionBudget:
    """Divides the connections of a host among its proxies: none can use up what the others need."""

    def __init__(self) -> None:
        self._open: dict[NameProxy, int] = {}
        self._total = 0

    def join(self, proxy: NameProxy) -> None:
        """Count a proxy among those that share."""
        self._open[proxy] = 0

    def leave(self, proxy: NameProxy) -> None:
        """Count it no more. Idempotent."""
        self._total -= self._open.pop(proxy, 0)

    def take(self, proxy: NameProxy) -> bool:
        """Take one connection; False: the proxy has all that it may have."""
        own = self._open.get(proxy)
        if own is None or own >= NAME_CONNECTIONS_LIMIT:
            return False
        is_full = self._total >= HOST_CONNECTIONS_LIMIT
        if is_full and own >= HOST_CONNECTIONS_LIMIT // len(self._open):
            return False
        self._open[proxy] = own + 1
        self._total += 1
        return True

    def give_back(self, proxy: NameProxy) -> None:
        """Give one connection back."""
        if proxy in self._open:
            self._open[proxy] -= 1
            self._total -= 1


class NameProxy:
    """The proxy of one slot. It refuses every connection until it is given names."""

    def __init__(
        self,
        namespace: str,
        name_servers: Iterable[IPv4Address],
        blocked: Iterable[IPv4Network],
        budget: ConnectionBudget,
    ) -> None:
        self._namespace = namespace
        self._budget = budget
        self._lookup = NameLookup(namespace, name_servers, blocked)
        self._names: tuple[HostPattern, ...] = ()
        self._pace = Pace()
        self._listening: list[socket.socket] = []
        self._tasks = OwnedTasks()
        self._connections: dict[asyncio.Task[object], str] = {}
        """Open connections with the names of their servers; empty while it is not known."""

    async def start(self) -> None:
        """Listen in the slot's namespace. After an error nothing is left.

        Raises:
            KernelError: no such namespace. OSError: it cannot listen.
        """
        async with Undo() as undo:
            undo.push("stop the proxy", self.close)
            self._budget.join(self)
            for port in NAME_PORTS:
                listening = await open_socket(
                    self._namespace,
                    socket.SOCK_STREAM,
                    set_up=listen_at(TAP_ADDRESS, port, backlog=NAME_CONNECTIONS_LIMIT),
                )
                self._listening.append(listening)
                self._tasks.start(f"accept connections by name at port {port}", self._accept(port, listening))
                await fault_point("network.name_proxy.listening")
            undo.keep()

    async def set_names(self, names: Iterable[HostPattern]) -> None:
        """Replace the allowed names. Open connections to servers that are not allowed any more are closed."""
        self._names = tuple(names)
        forbidden = [task for task, name in self._connections.items() if name and not self._allows(name)]
        for task in forbidden:
            task.cancel()
        if forbidden:
            await asyncio.wait(forbidden)

    async def close(self) -> None:
        """Stop listening and close all connections. Idempotent."""
        try:
            await self._tasks.close()
        finally:
            for listening in self._listening:
                listening.close()
            self._listening.clear()
            self._budget.leave(self)

    def _allows(self, name: str) -> bool:
        return any(pattern.matches(name) for pattern in self._names)

    async def _accept(self, port: int, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listening)
            except OSError:
                _log.warning("a connection by name was not accepted", exc_info=True)
                await asyncio.sleep(_ACCEPT_RETRY_S)
                continue
            if self._budget.take(self):
                task = self._tasks.start("connection by name", self._serve(port, client))
                self._connections[task] = ""
                task.add_done_callback(partial(self._forget, client))
            else:
                client.close()
            # What waits meanwhile is limited by the backlog, and the kernel drops the rest.
            await self._pace.passed(messages=_CONNECTION_COST)

    def _forget(self, client: socket.socket, task: asyncio.Task[object]) -> None:
        client.close()
        del self._connections[task]
        self._budget.give_back(self)

    async def _serve(self, port: int, client: socket.socket) -> None:
        try:
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                name, head = await self._read_head(client, _READ_NAME[port])
            if not self._allows(name):
                raise _Refused
            task = asyncio.current_task()
            assert task is not None, "this runs in a task"
            self._connections[task] = name
            server = await self._connect(name, port)
        except (_Refused, NamesNoServer, NameUnknown, OSError, TimeoutError, KernelError):
            await _refuse(client, port)
            return
        with server, suppress(OSError, TimeoutError):  # either side is gone, or nothing was sent for long
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._relay(client, server, head)

    async def _read_head(
        self, client: socket.socket, read_name: Callable[[bytes], str | None]
    ) -> tuple[str, bytes]:
        """Read until the client has named its server; return the name and all that was read."""
        head = b""
        for _ in range(_READS_LIMIT):
            part = await asyncio.get_running_loop().sock_recv(client, HEAD_LIMIT)
            await self._pace.passed()
            head += part
            if (name := read_name(head)) is not None:
                return name, head
            if not part or len(head) > HEAD_LIMIT:
                break
        raise NamesNoServer("the client names no server")

    async def _connect(self, name: str, port: int) -> socket.socket:
        addresses = await self._lookup.addresses(name)
        for address in addresses[:_ADDRESSES_TRIED]:
            await self._pace.passed(messages=_CONNECTION_COST)
            connecting = await open_socket(
                self._namespace, socket.SOCK_STREAM, set_up=mark_packets(PROXY_MARK)
            )
            with on_failure(connecting.close):
                try:
                    async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                        await asyncio.get_running_loop().sock_connect(connecting, (str(address), port))
                    return connecting
                except (OSError, TimeoutError):
                    connecting.close()
        raise _Refused

    async def _relay(self, client: socket.socket, server: socket.socket, head: bytes) -> None:
        """Send the head, then carry bytes both ways until both have ended.

        Raises:
            OSError: a side is gone. TimeoutError: nothing was sent for `IDLE_TIMEOUT_S`.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(IDLE_TIMEOUT_S) as idle:

            async def carry(source: socket.socket, target: socket.socket) -> None:
                while data := await loop.sock_recv(source, _PIECE_B):
                    if not idle.expired():
                        idle.reschedule(loop.time() + IDLE_TIMEOUT_S)
                    await self._pace.passed(size_b=len(data))
                    await loop.sock_sendall(target, data)
                target.shutdown(socket.SHUT_WR)

            await loop.sock_sendall(server, head)
            directions = [
                asyncio.create_task(carry(client, server)),
                asyncio.create_task(carry(server, client)),
            ]
            try:
                await asyncio.gather(*directions)
            finally:
                for direction in directions:
                    direction.cancel()
                await asyncio.wait(directions)


async def _refuse(client: socket.socket, port: int) -> None:
    """Tell a TLS client why its connection ends."""
    if port == 443:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_ALERT_TIMEOUT_S):
                await asyncio.get_running_loop().sock_sendall(client, _ACCESS_DENIED)
