"""HTTP connections to the agents of all hosts: one client, one pool, one TLS context for calls, streams, files and ports."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final

import aiohttp
from yarl import URL

from wrenn.base.errors import Unavailable, cause_of
from wrenn.base.request_ids import request_id_headers
from wrenn.control.hosts.records import HostNotConnected
from wrenn.control.hosts.resolver import RemoteResolver
from wrenn.control.hosts.types import HostEndpoint
from wrenn.protocol.host.streams import MESSAGE_LIMIT_B
from wrenn.relay import (
    CONNECT_TIMEOUT_S,
    UNPACED,
    Headers,
    PacedConnector,
    Request,
    Scope,
    connect_websocket,
    keepalive_socket,
    new_session,
)

_POOL_IDLE_S: Final = 60.0
"""Below the agent's keep-alive of 75 s, so that no request is sent on a connection that the agent is closing."""
_CLOSE_TIMEOUT_S: Final = 5.0
_UNANSWERED_S: Final = 15.0
"""A machine that lost power answers nothing: so long a call waits for it, rather than for the call's whole time."""


class HostTransport:
    """Opens connections to agents, with the control plane's certificate, and keeps idle ones for the next request.

    Each request carries the id of the request that this task serves.
    """

    def __init__(self, pki: Path) -> None:
        self._pki = pki
        self._tls = _tls_context(pki)
        self._connector = PacedConnector(
            UNPACED,
            unanswered_s=_UNANSWERED_S,
            limit=0,
            keepalive_timeout=_POOL_IDLE_S,
            use_dns_cache=False,
            resolver=RemoteResolver(),
            socket_factory=keepalive_socket,
        )
        self._session = new_session(self._connector)

    def reload_tls(self) -> None:
        """Read the CA and the control plane's certificate again. From now on every request uses a connection made with them.

        What goes on over connections made before goes on unchanged; they are not used for anything new.

        Raises:
            OSError: the files cannot be read or do not fit together; the former certificate stays in use.
        """
        # Connections are pooled by their context, so idle ones of the former context find no request any more.
        self._tls = _tls_context(self._pki)

    def connection_to(self, endpoint: HostEndpoint) -> HostConnection:
        """Return what is needed to call this host. Opens no connection yet."""
        return HostConnection(endpoint, self._session, lambda: self._tls)

    def cut(self, endpoint: HostEndpoint) -> None:
        """Abort all connections that were made to a host with certificates of this epoch, also those with an exchange in progress."""
        self._connector.cut_to(endpoint.certified_name)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


class HostConnection:
    """The only way to reach the agent of one host: requests, WebSockets and forwarded traffic, over pooled connections.

    Every connection demands the certificate of this very host, whoever listens at its address.
    """

    def __init__(
        self,
        endpoint: HostEndpoint,
        session: aiohttp.ClientSession,
        current_tls: Callable[[], ssl.SSLContext],
    ) -> None:
        self.endpoint = endpoint
        self.failures = 0
        """Calls until now that the agent did not answer, or could not carry out: a change is a reason to look at the host."""
        self._session = session
        self._current_tls = current_tls
        self._server_name = endpoint.certified_name

    def not_answering(self, cause: BaseException) -> Unavailable:
        """Count a call that failed, and build its error. The cause is for the log only, since it names addresses."""
        self.failures += 1
        is_unsent = isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
        kind = HostNotConnected if is_unsent else Unavailable
        return kind("The host of this sandbox does not answer now.", context={"cause": cause_of(cause)})

    def withdraw(self) -> None:
        """Let nothing more be sent to this host by whoever holds this connection."""
        self.endpoint = replace(self.endpoint, address="")

    def url(self, target: str, *, encoded: bool = False) -> URL:
        """Return the URL of a path at the agent. `encoded`: use it exactly as it is.

        Raises:
            HostNotConnected: the host has to be registered again before anything is sent to it.
        """
        if not self.endpoint.address:
            raise HostNotConnected("The host of this sandbox is not registered any more.")
        return URL(self.endpoint.address + target, encoded=encoded)

    async def request(
        self,
        method: str,
        url: URL,
        *,
        data: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request and return the response, whose body is not read yet. The caller closes it.

        `silence_s` limits each wait for more of the response; None: the caller limits it.

        Raises:
            TimeoutError: nothing was received for `silence_s`.
            aiohttp.ClientError, OSError: the exchange failed.
        """
        return await self._session.request(
            method,
            url,
            data=data,
            headers={**(headers or {}), **request_id_headers()},
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=silence_s),
            ssl=self._current_tls(),
            server_hostname=self._server_name,
        )

    async def connect_stream(self, url: URL) -> aiohttp.ClientWebSocketResponse:
        """Open a WebSocket for messages of at most `MESSAGE_LIMIT_B`.

        Raises:
            TimeoutError, aiohttp.ClientError, OSError: the connection failed.
        """
        return await self._session.ws_connect(
            url,
            max_msg_size=MESSAGE_LIMIT_B,
            timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),  # pyright: ignore[reportCallIssue] - attrs
            ssl=self._current_tls(),
            server_hostname=self._server_name,
        )

    def forward(
        self, request: Request, url: URL, headers: Headers
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Forward a client's request; as `Request.asked`."""
        return request.asked(
            self._session,
            url,
            _with_request_id(headers),
            tls=self._current_tls(),
            server_name=self._server_name,
        )

    async def forward_websocket(
        self, scope: Scope, url: URL, headers: Headers
    ) -> aiohttp.ClientWebSocketResponse:
        """Open the WebSocket that a client asks for; as `connect_websocket`."""
        return await connect_websocket(
            self._session,
            scope,
            url,
            _with_request_id(headers),
            tls=self._current_tls(),
            server_name=self._server_name,
        )


def _with_request_id(headers: Headers) -> Headers:
    return [*headers, *((name.encode(), value.encode()) for name, value in request_id_headers().items())]


def _tls_context(pki: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=pki / "trusted.pem")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(pki / "control.pem", pki / "control.key")
    return context
