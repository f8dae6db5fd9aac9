"""The way to the ports of a guest's programs. One object a generation of the VM: no connection outlives it.

A program that listens on the guest's loopback only refuses what comes from outside. Then envd is asked to join a
connection to the loopback port (`GET /connect?port=`), and what follows its head on that connection are the program's bytes.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from typing import Any, Final, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from wrenn.base.errors import AgentFailure, Forbidden, PortClosed, Unavailable, WrennError
from wrenn.base.units import KIB
from wrenn.guest.connect import ENVD_PORT, unreachable
from wrenn.relay import Pace, PacedConnector, new_session

CONNECTIONS: Final = 1024
"""To the ports of one guest at once; more wait their turn."""
_IDLE_S: Final = 3.0
"""For how long an idle connection is kept. Usual servers close theirs after 5 s, and a request must not meet that."""
_DIAL_TIMEOUT_S: Final = 5.0
_HEAD_LIMIT_B: Final = 4 * KIB


class GuestPorts:
    """See the module head."""

    def __init__(self, address: str, headers: Mapping[str, str], pace: Pace | None = None) -> None:
        self._address = address
        self._headers = headers
        self.pace = pace or Pace()
        self._session: aiohttp.ClientSession | None = None
        self._connector: _Dialer | None = None
        self._streams: set[asyncio.StreamWriter] = set()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP client whose connections these are. Made when it is first needed: most guests serve nothing."""
        if self._session is None:
            self._connector = _Dialer(self)
            self._session = new_session(self._connector)
        return self._session

    def url(self, port: int, target: str) -> URL:
        """The URL of a request target at a port, exactly as it was asked for."""
        check_port(port)
        return URL(f"http://{self._address}:{port}{target}", encoded=True)

    async def close(self) -> None:
        """Cut all connections without waiting for the guest. A later use opens new ones."""
        session, self._session = self._session, None
        connector, self._connector = self._connector, None
        for writer in self._streams:
            writer.transport.abort()
        self._streams.clear()
        if connector is not None:
            connector.cut()
        if session is not None:
            await session.close()

    async def dial(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A stream to the program that listens on `port`; it ends with this object.

        Raises:
            PortClosed: there is none. Unavailable: no answer.
        """
        check_port(port)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=64 * KIB, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            async with asyncio.timeout(_DIAL_TIMEOUT_S):
                try:
                    transport, _ = await loop.create_connection(lambda: protocol, self._address, port)
                except ConnectionRefusedError:
                    transport = await self.join_loopback(port, protocol)
        except (OSError, TimeoutError) as error:
            raise unreachable(error) from error
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self._streams.add(writer)
        return reader, writer

    def hang_up(self, writer: asyncio.StreamWriter) -> None:
        """Cut a stream of `dial`."""
        self._streams.discard(writer)
        writer.transport.abort()

    async def join_loopback(self, port: int, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Connect `protocol` with the program that listens on the guest's loopback.

        Raises:
            PortClosed: there is none. OSError: envd does not answer.
        """
        loop = asyncio.get_running_loop()
        transport, joining = await loop.create_connection(_Joining, self._address, ENVD_PORT)
        try:
            head = [f"GET /connect?port={port} HTTP/1.1", f"Host: {self._address}"]
            head += ["Connection: Upgrade", "Upgrade: wrenn-stream"]
            head += [f"{name}: {value}" for name, value in self._headers.items()]
            transport.write("\r\n".join([*head, "", ""]).encode("ascii"))
            status, rest = await joining.answer
            if status == 404:
                raise closed(port)
            if status != 101:
                raise AgentFailure("The sandbox does not join connections.", context={"status": status})
        except BaseException:
            transport.abort()
            raise
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if rest:
            protocol.data_received(rest)
        transport.resume_reading()
        return transport


def check_port(port: int) -> None:
    """Raises Forbidden: it is the guest agent's own."""
    if port == ENVD_PORT:
        raise Forbidden(f"Port {ENVD_PORT} is the platform's own.")


def closed(port: int) -> PortClosed:
    """The refusal of a port on which nobody listens."""
    return PortClosed(f"Nothing listens on port {port} in the sandbox.")


def dial_failure(error: Exception, port: int) -> WrennError:
    """What it means that the HTTP client failed before there was an answer."""
    if isinstance(error, WrennError):
        return error
    if isinstance(error, aiohttp.ClientConnectorError):
        return unreachable(error)
    if isinstance(error, TimeoutError | aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
        return AgentFailure(
            f"The program on port {port} of the sandbox closed the connection without an answer."
        )
    if isinstance(error, RuntimeError):  # the session was closed: the sandbox is being put away
        return Unavailable("The connection to the sandbox was closed.")
    return AgentFailure(f"The program on port {port} of the sandbox does not speak HTTP as it should.")


class _Joining(asyncio.Protocol):
    """Reads envd's answer up to the end of its head, and not a byte of what follows is lost."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember it, to stop reading in time."""
        # Not by isinstance: uvloop's transports are no subclass.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """More of the head."""
        if self.answer.done():
            return
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if end:
            assert self._transport is not None, "data comes on a connection"
            self._transport.pause_reading()
            word = head.split(b" ", 2)[1:2]
            status = int(word[0]) if word and word[0].isdigit() and len(word[0]) == 3 else 0
            self.answer.set_result((status, rest))
        elif len(self._received) > _HEAD_LIMIT_B:
            self.answer.set_exception(ConnectionError("envd's answer is too long"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Without an answer."""
        if not self.answer.done():
            self.answer.set_exception(exc or ConnectionResetError("envd closed the connection"))


class _Dialer(PacedConnector):
    """Connections to the guest, through envd where the guest itself refuses them."""

    def __init__(self, ports: GuestPorts) -> None:
        super().__init__(ports.pace, limit=CONNECTIONS, keepalive_timeout=_IDLE_S, use_dns_cache=False)
        self._ports = ports

    # The hook by which other packages add proxies: the library has no public one for how a connection is made.
    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> ResponseHandler:
        try:
            return await super()._create_connection(req, traces, timeout)
        except aiohttp.ClientConnectorError as error:
            if error.os_error.errno != errno.ECONNREFUSED:
                raise
            protocol: ResponseHandler = self._factory()
            try:
                async with asyncio.timeout(_DIAL_TIMEOUT_S):
                    await self._ports.join_loopback(req.url.port, protocol)
            except TimeoutError as late:
                raise aiohttp.ClientConnectorError(req.connection_key, OSError("no answer")) from late
            except OSError as failure:
                raise aiohttp.ClientConnectorError(req.connection_key, failure) from failure
            return protocol
