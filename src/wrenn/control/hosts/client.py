"""Calls to host agents: the only RPC client of the control plane. Files are transferred by `transfers.py`.

Connections are kept and shared per host.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import aiohttp
from connectrpc.client import ResponseMetadata
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from pyqwest import Client, HTTPTransport, HTTPVersion, Proxy
from yarl import URL

from wrenn.base.errors import DeadlineExceeded, Unavailable, WrennError
from wrenn.base.ids import SandboxId
from wrenn.base.tasks import OwnedTasks
from wrenn.base.units import MIB
from wrenn.control.hosts.execs import Execs
from wrenn.control.hosts.streams import HostStream, StreamConnections
from wrenn.control.hosts.transfers import IDLE_TIMEOUT_S, READ_BUFFER_B, Transfers
from wrenn.protocol.api import OUTPUT_LIMIT_B
from wrenn.protocol.host.errors import ERROR_CODE_HEADER, from_connect
from wrenn.protocol.host.host_connect import HostAgentClient
from wrenn.relay import UNPACED, IgnoredCookies, PacedConnector, keepalive_socket, new_session

R = TypeVar("R")

_CONNECT_TIMEOUT_S: Final = 5.0
_POOL_IDLE_S: Final = 60.0
"""Below the agent's keep-alive of 75 s, so that no request is sent on a connection that the agent is closing."""
_IDLE_CONNECTIONS: Final = 64
_ANSWER_LIMIT_B: Final = 2 * OUTPUT_LIMIT_B + 4 * MIB


@dataclass(frozen=True, slots=True)
class Connections:
    """Connection pools and tasks that the clients of all agents share.

    Attributes:
        transport, http: of RPCs and uploads.
        downloads: of files that are read, of commands, and of streams.
        relays: of what is passed on to ports of sandboxes.
        tasks: owner of what goes on behind requests.
    """

    transport: HTTPTransport
    http: Client
    downloads: aiohttp.ClientSession
    relays: aiohttp.ClientSession
    tasks: OwnedTasks


class HostClient:
    """Calls to the agent of one host.

    Attributes:
        relays: the HTTP client for what is passed on to ports of sandboxes.
    """

    def __init__(self, address: str, connections: Connections) -> None:
        self._address = address
        self.relays = connections.relays
        self.transfers = Transfers(address, connections.transport, connections.downloads)
        self.execs = Execs(address, connections.downloads)
        self.streams = StreamConnections(connections.downloads, address, connections.tasks)
        self.rpc = HostAgentClient(
            address,
            http_client=connections.http,
            accept_compression=[],
            send_compression=None,
            read_max_bytes=_ANSWER_LIMIT_B,
        )

    async def call(self, method: Callable[..., Awaitable[R]], request: object, *, timeout_s: float) -> R:
        """Call `method` of `self.rpc`.

        Raises:
            WrennError: what the agent said; `Unavailable` when it did not answer; `DeadlineExceeded`.
        """
        with ResponseMetadata() as answer:
            try:
                return await method(request, timeout_ms=int(timeout_s * 1000))
            except ConnectError as error:
                task = asyncio.current_task()
                if error.code is Code.CANCELED and task is not None and task.cancelling():
                    # The library hides our own cancellation; timeouts and shutdown need it.
                    raise asyncio.CancelledError from error
                code = answer.headers.get(ERROR_CODE_HEADER, "")
                raise self._failure(error, code, timeout_s) from error

    def _failure(self, error: ConnectError, code: str, timeout_s: float) -> WrennError:
        context: dict[str, object] = {"host": self._address, "cause": error.message}
        if not code and error.code is Code.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"The host did not answer within {timeout_s:.0f} s.", context=context)
        if not code and error.code is Code.UNAVAILABLE:
            # The transport's words; they name addresses.
            return Unavailable("The host of this sandbox does not answer now.", context=context)
        return from_connect(error, code=code or None)

    def stream(self) -> AbstractAsyncContextManager[HostStream]:
        """Open a connection that follows one process of a sandbox; leaving the context detaches from the process.

        Raises:
            Unavailable: the host does not answer.
        """
        return self.streams.stream()

    def port_url(self, sandbox_id: SandboxId, port: int, target: str) -> URL:
        """Return the URL at which `relays` reaches a port of the sandbox, with the request target unchanged."""
        return URL(f"{self._address}/sandboxes/{sandbox_id}/ports/{port}{target}", encoded=True)

    def stream_url(self, sandbox_id: SandboxId, port: int) -> URL:
        """Return the URL of the WebSocket at which `relays` reaches the bytes of a port of the sandbox."""
        return URL(f"{self._address}/sandboxes/{sandbox_id}/streams/{port}")


def _connector(tls: ssl.SSLContext) -> PacedConnector:
    return PacedConnector(
        UNPACED,
        ssl=tls,
        limit=0,
        keepalive_timeout=_POOL_IDLE_S,
        use_dns_cache=False,
        socket_factory=keepalive_socket,
    )


class HostClients:
    """The clients of all agents, over shared connection pools with the control plane's certificate."""

    def __init__(self, pki: Path) -> None:
        transport = HTTPTransport(
            tls_ca_cert=(pki / "ca.pem").read_bytes(),
            tls_cert=(pki / "control.pem").read_bytes(),
            tls_key=(pki / "control.key").read_bytes(),
            http_version=HTTPVersion.HTTP1,
            # Applies to no agent, whose scheme is https; that there is one keeps the environment's proxies away.
            proxy=Proxy("http://127.0.0.1:9", scheme="http"),
            connect_timeout=_CONNECT_TIMEOUT_S,
            pool_idle_timeout=_POOL_IDLE_S,
            pool_max_idle_per_host=_IDLE_CONNECTIONS,
            enable_gzip=False,
            enable_brotli=False,
            enable_zstd=False,
            follow_redirects=False,
            enable_otel=False,
        )
        tls = ssl.create_default_context(cafile=pki / "ca.pem")
        tls.load_cert_chain(pki / "control.pem", pki / "control.key")
        downloads = aiohttp.ClientSession(
            connector=_connector(tls),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=IgnoredCookies(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=IDLE_TIMEOUT_S
            ),
            trust_env=False,
            read_bufsize=READ_BUFFER_B,
        )
        relays = new_session(_connector(tls))
        self._connections = Connections(transport, Client(transport), downloads, relays, OwnedTasks())
        self._clients: dict[str, HostClient] = {}

    def at(self, address: str) -> HostClient:
        """Return the client for the agent at this URL. Opens no connection yet."""
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = HostClient(address, self._connections)
        return client

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.tasks.close()
        for client in self._clients.values():
            await client.streams.close()
        await self._connections.downloads.close()
        await self._connections.relays.close()
        await self._connections.transport.aclose()
