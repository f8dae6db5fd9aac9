"""Connections to ports of a guest. There is one `GuestPorts` for each boot or restore of the VM; no connection outlives it.

A program that listens only on the guest's loopback refuses connections from outside. For such a port envd is
asked to forward a connection to the loopback port (`GET /connect?port=`): after the head of its response, the
connection carries the program's bytes.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from typing import Any, Final, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from wrenn.base.errors import (
    AgentFailure,
    Forbidden,
    NotFound,
    PortClosed,
    RateLimited,
    Unavailable,
    WrennError,
)
from wrenn.base.on_failure import on_failure
from wrenn.base.units import KIB
from wrenn.guest.connect import ENVD_PORT, unreachable
from wrenn.protocol.guest_agent import ACCESS_HEADER, is_public_path
from wrenn.relay import Headers, Pace, PacedConnector, new_session

CONNECTIONS: Final = 1024
"""Concurrent connections to the ports of one guest; further ones wait."""
TUNNELS: Final = 256
"""Tunnels to the ports of one guest at once, beside these connections; further ones are refused."""
AGENT_CONNECTIONS: Final = 160
"""Of the 512 that the guest agent accepts. The host's own calls have 320."""
_AGENT_IDLE_S: Final = 60.0
_WAIT_S: Final = 30.0
"""How long a visitor may wait for one of the connections to the ports, or to the guest agent."""
_TOKEN: Final = ACCESS_HEADER.lower().encode()
_IDLE_S: Final = 3.0
"""How long an idle connection stays open. Common servers close theirs after 5 s, and a request must not race
with that."""
_DIAL_TIMEOUT_S: Final = 5.0
_HEAD_LIMIT_B: Final = 4 * KIB


class GuestPorts:
    """HTTP client and byte streams to the programs that listen on ports of one guest."""

    def __init__(self, address: str, headers: Mapping[str, str], pace: Pace | None = None) -> None:
        self._address = address
        self._headers = headers
        self.pace = pace or Pace()
        self._session: aiohttp.ClientSession | None = None
        self._connector: _Dialer | None = None
        self._agent_session: aiohttp.ClientSession | None = None
        self._agent_connector: PacedConnector | None = None
        self._streams: set[asyncio.StreamWriter] = set()
        self._dialing = 0

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP client for this guest. It is created on first use: most guests serve nothing."""
        if self._session is None:
            self._connector = _Dialer(self)
            self._session = new_session(self._connector, connect_timeout_s=_WAIT_S)
        return self._session

    @property
    def agent_session(self) -> aiohttp.ClientSession:
        """The HTTP client for calls of visitors to the guest agent. It has few connections, so that visitors leave enough for the host."""
        if self._agent_session is None:
            self._agent_connector = PacedConnector(
                self.pace, limit=AGENT_CONNECTIONS, keepalive_timeout=_AGENT_IDLE_S, use_dns_cache=False
            )
            self._agent_session = new_session(self._agent_connector, connect_timeout_s=_WAIT_S)
        return self._agent_session

    def agent_url(self, target: str) -> URL:
        """Return the URL of a call of the guest agent that visitors may make.

        Raises:
            NotFound: they may not make it.
        """
        if not is_public_path(target.partition("?")[0]):
            raise NotFound("The sandbox has no such call.")
        return URL(f"http://{self._address}:{ENVD_PORT}{target}", encoded=True)

    def with_token(self, headers: Headers) -> Headers:
        """Return the headers of a visitor's call with the host's own token for the guest agent in place of the visitor's."""
        token = self._headers[ACCESS_HEADER].encode("ascii")
        return [*((name, value) for name, value in headers if name != _TOKEN), (_TOKEN, token)]

    def url(self, port: int, target: str) -> URL:
        """Return the URL of a request target at a port, without any normalization."""
        check_port(port)
        return URL(f"http://{self._address}:{port}{target}", encoded=True)

    async def close(self) -> None:
        """Close all connections without waiting for the guest. A later use opens new ones."""
        session, self._session = self._session, None
        connector, self._connector = self._connector, None
        agent_session, self._agent_session = self._agent_session, None
        agent_connector, self._agent_connector = self._agent_connector, None
        for writer in self._streams:
            writer.transport.abort()
        self._streams.clear()
        for cut_off in (connector, agent_connector):
            if cut_off is not None:
                cut_off.cut()
        for closed in (session, agent_session):
            if closed is not None:
                await closed.close()

    async def dial(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a byte stream to the program that listens on `port`. It is closed together with this object.

        Raises:
            PortClosed: no program listens on the port.
            RateLimited: there are too many streams.
            Unavailable: no response.
        """
        check_port(port)
        if len(self._streams) + self._dialing >= TUNNELS:
            raise RateLimited(f"More than {TUNNELS} tunnels to this sandbox are open at once.")
        self._dialing += 1
        try:
            return await self._dial(port)
        finally:
            self._dialing -= 1

    async def _dial(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
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

    def abort_stream(self, writer: asyncio.StreamWriter) -> None:
        """Abort a stream opened by `dial`."""
        self._streams.discard(writer)
        writer.transport.abort()

    async def join_loopback(self, port: int, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Connect `protocol` to the program that listens on the guest's loopback.

        Raises:
            PortClosed: no program listens on the port.
            OSError: envd does not respond.
        """
        loop = asyncio.get_running_loop()
        transport, handshake = await loop.create_connection(_LoopbackHandshake, self._address, ENVD_PORT)
        with on_failure(transport.abort):
            head = [f"GET /connect?port={port} HTTP/1.1", f"Host: {self._address}"]
            head += ["Connection: Upgrade", "Upgrade: wrenn-stream"]
            head += [f"{name}: {value}" for name, value in self._headers.items()]
            transport.write("\r\n".join([*head, "", ""]).encode("ascii"))
            status, rest = await handshake.answer
            if status == 404:
                raise port_closed(port)
            if status != 101:
                raise AgentFailure("The sandbox does not join connections.", context={"status": status})
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if rest:
            protocol.data_received(rest)
        transport.resume_reading()
        return transport


def check_port(port: int) -> None:
    """Check that `port` may be used. Raises Forbidden if it is the guest agent's own."""
    if port == ENVD_PORT:
        raise Forbidden(f"Port {ENVD_PORT} is the platform's own.")


def port_closed(port: int) -> PortClosed:
    """Return the error for a port on which no program listens."""
    return PortClosed(f"Nothing listens on port {port} in the sandbox.")


def dial_error(error: Exception, port: int) -> WrennError:
    """Translate an error of the HTTP client that occurred before there was a response."""
    if isinstance(error, WrennError):
        return error
    if port == ENVD_PORT or isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return unreachable(error)
    if isinstance(error, TimeoutError | aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
        return AgentFailure(
            f"The program on port {port} of the sandbox closed the connection without an answer."
        )
    if isinstance(error, RuntimeError):  # the session was closed: the sandbox is being paused or stopped
        return Unavailable("The connection to the sandbox was closed.")
    return AgentFailure(f"The program on port {port} of the sandbox does not speak HTTP as it should.")


class _LoopbackHandshake(asyncio.Protocol):
    """Reads the head of envd's response and passes the bytes after it on to the next protocol."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, to pause reading in time."""
        # No isinstance check: uvloop's transports are not a subclass.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Handle more bytes of the head."""
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
        """Report that the connection ended before a response."""
        if not self.answer.done():
            self.answer.set_exception(exc or ConnectionResetError("envd closed the connection"))


class _Dialer(PacedConnector):
    """Connects to the guest, through envd if the guest itself refuses the connection."""

    def __init__(self, ports: GuestPorts) -> None:
        super().__init__(ports.pace, limit=CONNECTIONS, keepalive_timeout=_IDLE_S, use_dns_cache=False)
        self._ports = ports

    # The hook that proxy packages override: aiohttp has no public one for how connections are made.
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
