"""Lets the connections of one sandbox to ports 80 and 443 through by the name of the server, without looking into TLS.

The firewall of the slot redirects these connections to the proxy. It reads the name from the first bytes, looks it up
itself and connects to what it finds: the address that the guest wanted to reach plays no part. So neither forged answers
to the guest's lookups nor a name in place of an address opens another server. The proxy's own connections begin in the
slot's namespace and carry a mark; there, the same rules as for the guest keep them from protected and private networks.

A name says which server is connected to, not what is asked of it: a server that serves several names serves them all.
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
from wrenn.base.tasks import OwnedTasks
from wrenn.base.undo import Undo
from wrenn.linux.namespace_sockets import listen_at, mark_packets, open_socket
from wrenn.linux.namespaces import KernelError
from wrenn.network.firewall import NAME_CONNECTIONS_LIMIT, NAME_PORTS, PROXY_MARK
from wrenn.network.name_lookup import NameLookup, NameUnknown
from wrenn.network.plan import TAP_ADDRESS
from wrenn.network.server_names import HEAD_LIMIT, NamesNoServer, http_server_name, tls_server_name

_log = logging.getLogger(__name__)

HOST_CONNECTIONS_LIMIT: Final = 4096
"""Connections by name of all guests of a host beyond which each has its equal share only. Each takes two descriptors."""
HEAD_TIMEOUT_S: Final = 15.0
"""Within this time a client must have named the server."""
IDLE_TIMEOUT_S: Final = 3600.0
"""A connection over which nothing is sent for this time is closed."""
_CONNECT_TIMEOUT_S: Final = 5.0
_FLUSH_TIMEOUT_S: Final = 60.0
"""For the rest of an answer, at most about 100 KiB."""
_ADDRESSES_TRIED: Final = 4
_READS_LIMIT: Final = 64
"""Most parts in which the head may come: the whole is read again after each."""
_BUFFER_B: Final = 16 * 1024
"""Each direction of a connection may hold two to four times as much in memory."""
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

    def join(self, proxy: NameProxy) -> None:
        """Count a proxy among those that share."""
        self._open[proxy] = 0

    def leave(self, proxy: NameProxy) -> None:
        """Count it no more. Idempotent."""
        self._open.pop(proxy, None)

    def take(self, proxy: NameProxy) -> bool:
        """Take one connection; False: the proxy has all that it may have."""
        own = self._open.get(proxy)
        if own is None or own >= NAME_CONNECTIONS_LIMIT:
            return False
        is_full = sum(self._open.values()) >= HOST_CONNECTIONS_LIMIT
        if is_full and own >= HOST_CONNECTIONS_LIMIT // len(self._open):
            return False
        self._open[proxy] = own + 1
        return True

    def give_back(self, proxy: NameProxy) -> None:
        """Give one connection back."""
        if proxy in self._open:
            self._open[proxy] -= 1


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
        self._servers: list[asyncio.Server] = []
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
                self._servers.append(
                    await asyncio.start_server(partial(self._accept, port), sock=listening, limit=_BUFFER_B)
                )
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
        for server in self._servers:
            server.close()
        self._servers.clear()
        await self._tasks.close()
        self._budget.leave(self)

    def _allows(self, name: str) -> bool:
        return any(pattern.matches(name) for pattern in self._names)

    def _accept(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._servers or not self._budget.take(self):
            writer.transport.abort()
            return
        task = self._tasks.start("connection by name", self._serve(port, reader, writer))
        self._connections[task] = ""
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[object]) -> None:
        del self._connections[task]
        self._budget.give_back(self)

    async def _serve(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                name, head = await _read_head(reader, _READ_NAME[port])
            if not self._allows(name):
                raise _Refused
            task = asyncio.current_task()
            assert task is not None, "this runs in a task"
            self._connections[task] = name
            server_reader, server_writer = await self._connect(name, port)
        except (_Refused, NamesNoServer, NameUnknown, OSError, TimeoutError, KernelError):
            await _refuse(writer, port)
            return
        except BaseException:
            writer.transport.abort()
            raise
        try:
            server_writer.write(head)
            await _relay((reader, writer), (server_reader, server_writer))
            await _flush(writer, server_writer)
        except (OSError, TimeoutError):
            pass  # either side is gone, or nothing was sent for long
        finally:
            writer.transport.abort()
            server_writer.transport.abort()

    async def _connect(self, name: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        addresses = await self._lookup.addresses(name)
        for address in addresses[:_ADDRESSES_TRIED]:
            connecting = await open_socket(
                self._namespace, socket.SOCK_STREAM, set_up=mark_packets(PROXY_MARK)
            )
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    await asyncio.get_running_loop().sock_connect(connecting, (str(address), port))
                return await asyncio.open_connection(sock=connecting, limit=_BUFFER_B)
            except (OSError, TimeoutError):
                connecting.close()
            except BaseException:
                connecting.close()
                raise
        raise _Refused


async def _read_head(
    reader: asyncio.StreamReader, read_name: Callable[[bytes], str | None]
) -> tuple[str, bytes]:
    """Read until the client has named its server; return the name and all that was read."""
    head = b""
    for _ in range(_READS_LIMIT):
        part = await reader.read(_BUFFER_B)
        head += part
        if (name := read_name(head)) is not None:
            return name, head
        if not part or len(head) > HEAD_LIMIT:
            break
    raise NamesNoServer("the client names no server")


async def _refuse(writer: asyncio.StreamWriter, port: int) -> None:
    """End a connection; a TLS client is told why."""
    try:
        if port == 443:
            writer.write(_ACCESS_DENIED)
        with suppress(OSError, TimeoutError):
            await _flush(writer)
    finally:
        writer.transport.abort()


async def _flush(*writers: asyncio.StreamWriter) -> None:
    """Send what is left in the buffers, and close.

    Raises:
        OSError: the other side is gone. TimeoutError: it takes nothing.
    """
    async with asyncio.timeout(_FLUSH_TIMEOUT_S):
        for writer in writers:
            writer.close()
        for writer in writers:
            await writer.wait_closed()


_Side = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _relay(client: _Side, server: _Side) -> None:
    """Carry bytes both ways until both have ended.

    Raises:
        OSError: a side is gone. TimeoutError: nothing was sent for `IDLE_TIMEOUT_S`.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(IDLE_TIMEOUT_S) as idle:

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(_BUFFER_B):
                if not idle.expired():
                    idle.reschedule(loop.time() + IDLE_TIMEOUT_S)
                writer.write(data)
                await writer.drain()
            if not writer.is_closing():
                writer.write_eof()

        directions = [
            asyncio.create_task(carry(client[0], server[1])),
            asyncio.create_task(carry(server[0], client[1])),
        ]
        try:
            await asyncio.gather(*directions)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.wait(directions)
