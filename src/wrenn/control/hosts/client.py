"""Calls to host agents: the only RPC client of the control plane.

Connections are kept and shared per host. File contents stream through in chunks, never held whole.

Downloads have an HTTP client of their own: pyqwest reads in a thread of its own and hands over each TLS record of 16 KiB,
which costs four times the processor time of reading in the event loop and halves the speed (0.5 s for 100 MB).
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import aiohttp
from connectrpc.client import ResponseMetadata
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from pyqwest import (
    Client,
    Headers,
    HTTPTransport,
    HTTPVersion,
    Proxy,
    ReadError,
    RemoteProtocolError,
    Request,
    Response,
    WriteError,
)
from yarl import URL

from wrenn.base.errors import AgentFailure, DeadlineExceeded, Unavailable, WrennError, error_class
from wrenn.base.ids import SandboxId
from wrenn.base.tasks import OwnedTasks
from wrenn.base.units import KIB, MIB
from wrenn.control.hosts.streams import HostStream, StreamConnections
from wrenn.protocol.api import OUTPUT_LIMIT_B
from wrenn.protocol.host.errors import ERROR_CODE_HEADER, from_connect
from wrenn.protocol.host.host_connect import HostAgentClient

R = TypeVar("R")

_TRANSPORT_ERRORS: Final = (OSError, RuntimeError, ReadError, WriteError, RemoteProtocolError)
_CONNECT_TIMEOUT_S: Final = 5.0
_IDLE_TIMEOUT_S: Final = 60.0
"""Longest silence within a file transfer."""
_READ_BUFFER_B: Final = 256 * KIB
"""What is read ahead of the client of a download; up to twice as much is handed on at once."""
_POOL_IDLE_S: Final = 60.0
"""Below the agent's keep-alive of 75 s, so that no request is sent on a connection that the agent is closing."""
_IDLE_CONNECTIONS: Final = 64
_ANSWER_LIMIT_B: Final = 2 * OUTPUT_LIMIT_B + 4 * MIB
_ERROR_LIMIT_B: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Download:
    """A file on its way out of a sandbox. `size_b` is None when the guest did not say."""

    size_b: int | None
    chunks: AsyncIterator[bytes]


class HostClient:
    """One host's agent."""

    def __init__(
        self,
        address: str,
        transport: HTTPTransport,
        http: Client,
        downloads: aiohttp.ClientSession,
        tasks: OwnedTasks,
    ) -> None:
        self._address = address
        self._transport = transport
        self._downloads = downloads
        self.streams = StreamConnections(downloads, address, tasks)
        self.rpc = HostAgentClient(
            address,
            http_client=http,
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

    @asynccontextmanager
    async def read_file(self, sandbox_id: SandboxId, path: str, *, user: str) -> AsyncGenerator[Download]:
        """Open a file of the sandbox; its content comes as it is asked for.

        Raises:
            NotFound: no such file, or no such sandbox on the host; before any content.
            AgentFailure: (from `chunks`) the content broke off.
        """
        url = URL(self._contents(sandbox_id)).with_query(path=path, user=user)
        try:
            response = await self._downloads.get(url, allow_redirects=False)
        except TimeoutError as error:
            raise DeadlineExceeded(f"The host did not answer within {_IDLE_TIMEOUT_S:.0f} s.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _no_answer(error) from error
        try:
            if response.status != 200:
                raise await _refusal(response.status, response.content.iter_any())
            yield Download(response.content_length, _content(response))
        finally:
            # Of a content that was read to its end the connection is kept already.
            response.close()

    async def write_file(
        self, sandbox_id: SandboxId, path: str, content: AsyncIterator[bytes], *, user: str
    ) -> None:
        """Write a file of the sandbox. When `content` raises, the transfer breaks off and that error is raised.

        Raises:
            WrennError: what the agent said.
        """
        failure: list[Exception] = []

        async def noting() -> AsyncIterator[bytes]:
            try:
                async for chunk in content:
                    yield chunk
            except Exception as error:
                # The client would hand it on as its own error.
                failure.append(error)
                raise

        try:
            async with await self._upload(sandbox_id, path, user, noting()) as response:
                if response.status >= 300:
                    raise await _refusal(response.status, response.content)
        except Unavailable:
            if failure:
                raise failure[0] from None
            raise

    async def _upload(
        self, sandbox_id: SandboxId, path: str, user: str, content: AsyncIterator[bytes]
    ) -> Response:
        request = Request(
            "PUT",
            self._contents(sandbox_id),
            Headers({"content-type": "application/octet-stream"}),
            content,
            params={"path": path, "user": user},
        )
        try:
            return await self._transport.execute(request)
        except _TRANSPORT_ERRORS as error:
            raise _no_answer(error) from error

    def stream(self) -> AbstractAsyncContextManager[HostStream]:
        """A connection on which one process of a sandbox is followed; leaving the context leaves the process.

        Raises:
            Unavailable: the host does not answer.
        """
        return self.streams.stream()

    def _contents(self, sandbox_id: SandboxId) -> str:
        return f"{self._address}/sandboxes/{sandbox_id}/files"


def _no_answer(cause: Exception) -> Unavailable:
    return Unavailable("The host of this sandbox does not answer now.", context={"cause": repr(cause)})


async def _content(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except TimeoutError as error:
        raise DeadlineExceeded(f"The sandbox sent nothing for {_IDLE_TIMEOUT_S:.0f} s.") from error
    except (aiohttp.ClientError, OSError) as error:
        raise AgentFailure(
            "The transfer from the sandbox broke off.", context={"cause": repr(error)}
        ) from error


async def _refusal(status: int, chunks: AsyncIterator[bytes | bytearray | memoryview]) -> WrennError:
    """The error in the body of a refused transfer."""
    body = bytearray()
    try:
        async with asyncio.timeout(_IDLE_TIMEOUT_S):
            async for chunk in chunks:
                body += chunk
                if len(body) > _ERROR_LIMIT_B:
                    break
        error = cast("dict[str, Any]", json.loads(body))
        return error_class(str(error["code"]))(str(error["message"]))
    except (ValueError, KeyError, TypeError, aiohttp.ClientError, *_TRANSPORT_ERRORS):
        return AgentFailure("The host refused the transfer without a reason.", context={"status": status})


class HostClients:
    """All agents, behind one pool of connections with the control plane's certificate."""

    def __init__(self, pki: Path) -> None:
        self._transport = HTTPTransport(
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
        self._http = Client(self._transport)
        tls = ssl.create_default_context(cafile=pki / "ca.pem")
        tls.load_cert_chain(pki / "control.pem", pki / "control.key")
        self._downloads = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=tls, limit=0, keepalive_timeout=_POOL_IDLE_S, use_dns_cache=False
            ),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_IDLE_TIMEOUT_S
            ),
            trust_env=False,
            read_bufsize=_READ_BUFFER_B,
        )
        self._tasks = OwnedTasks()
        self._clients: dict[str, HostClient] = {}

    def at(self, address: str) -> HostClient:
        """The agent at this URL. Opens no connection yet."""
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = HostClient(
                address, self._transport, self._http, self._downloads, self._tasks
            )
        return client

    async def close(self) -> None:
        """Close the connections."""
        await self._tasks.close()
        for client in self._clients.values():
            await client.streams.close()
        await self._downloads.close()
        await self._transport.aclose()
