"""Calls to host agents: the only RPC client of the control plane.

Connections are kept and shared per host. File contents stream through in chunks, never held whole.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

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

from wrenn.base.errors import AgentFailure, DeadlineExceeded, Unavailable, WrennError, error_class
from wrenn.base.ids import SandboxId
from wrenn.base.units import KIB, MIB
from wrenn.protocol.api import OUTPUT_LIMIT_B
from wrenn.protocol.host.errors import ERROR_CODE_HEADER, from_connect
from wrenn.protocol.host.host_connect import HostAgentClient

R = TypeVar("R")

_TRANSPORT_ERRORS: Final = (OSError, RuntimeError, ReadError, WriteError, RemoteProtocolError)
_CONNECT_TIMEOUT_S: Final = 5.0
_IDLE_TIMEOUT_S: Final = 60.0
"""Longest silence within a file transfer."""
_PIECE_B: Final = 128 * KIB
"""TLS delivers 16 KiB at a time; handing on eight at once takes an eighth of the work."""
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

    def __init__(self, address: str, transport: HTTPTransport, http: Client) -> None:
        self._address = address
        self._transport = transport
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
        async with await self._transfer("GET", sandbox_id, path, user) as response:
            if response.status != 200:
                raise await _refusal(response)
            size = response.headers.get("content-length", "")
            yield Download(int(size) if size else None, _chunks(response))

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
            async with await self._transfer("PUT", sandbox_id, path, user, noting()) as response:
                if response.status >= 300:
                    raise await _refusal(response)
        except Unavailable:
            if failure:
                raise failure[0] from None
            raise

    async def _transfer(
        self,
        method: str,
        sandbox_id: SandboxId,
        path: str,
        user: str,
        content: AsyncIterator[bytes] | None = None,
    ) -> Response:
        try:
            async with asyncio.timeout(_IDLE_TIMEOUT_S if content is None else None):
                return await self._transport.execute(
                    Request(
                        method,
                        f"{self._address}/sandboxes/{sandbox_id}/files",
                        Headers({"content-type": "application/octet-stream"}),
                        content,
                        params={"path": path, "user": user},
                    )
                )
        except TimeoutError as error:
            raise DeadlineExceeded(f"The host did not answer within {_IDLE_TIMEOUT_S:.0f} s.") from error
        except _TRANSPORT_ERRORS as error:
            raise Unavailable(
                "The host of this sandbox does not answer now.", context={"cause": repr(error)}
            ) from error


async def _chunks(response: Response) -> AsyncIterator[bytes]:
    content = response.content
    gathered = bytearray()
    try:
        while True:
            async with asyncio.timeout(_IDLE_TIMEOUT_S):
                chunk = await anext(content, None)
            if chunk is None:
                break
            gathered += chunk
            if len(gathered) >= _PIECE_B:
                yield bytes(gathered)
                gathered.clear()
        if gathered:
            yield bytes(gathered)
    except TimeoutError as error:
        raise DeadlineExceeded(f"The sandbox sent nothing for {_IDLE_TIMEOUT_S:.0f} s.") from error
    except _TRANSPORT_ERRORS as error:
        raise AgentFailure(
            "The transfer from the sandbox broke off.", context={"cause": repr(error)}
        ) from error


async def _refusal(response: Response) -> WrennError:
    """The error in the body of a refused transfer."""
    body = bytearray()
    async for chunk in _chunks(response):
        body += chunk
        if len(body) > _ERROR_LIMIT_B:
            break
    try:
        error = cast("dict[str, Any]", json.loads(body))
        return error_class(str(error["code"]))(str(error["message"]))
    except (ValueError, KeyError, TypeError):
        return AgentFailure(
            "The host refused the transfer without a reason.", context={"status": response.status}
        )


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
        self._clients: dict[str, HostClient] = {}

    def at(self, address: str) -> HostClient:
        """The agent at this URL. Opens no connection yet."""
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = HostClient(address, self._transport, self._http)
        return client

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.aclose()
