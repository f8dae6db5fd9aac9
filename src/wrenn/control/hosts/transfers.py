"""Transfers files between clients and sandboxes: plain HTTP to the host's agent, with a few chunks in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from wrenn.base.errors import (
    AgentFailure,
    DeadlineExceeded,
    Unavailable,
    WrennError,
    cause_of,
    error_class,
)
from wrenn.base.ids import SandboxId
from wrenn.base.units import KIB
from wrenn.control.hosts.transport import HostConnection
from wrenn.relay import read_bounded

IDLE_TIMEOUT_S: Final = 60.0
"""Longest silence within a transfer, and of a host whose sandbox is watched."""
_WRITTEN_TIMEOUT_S: Final = 165.0
"""Time for the answer to a content that was sent whole: the agent waits 30 s for a connection to the guest, and 120 s for the guest."""
_ERROR_LIMIT_B: Final = 64 * 1024
_LINE_LIMIT_B: Final = 256 * KIB
"""Of one change: a path of 4 KiB, each byte escaped for text and that for JSON."""

Query = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Download:
    """A file or an archive on its way out of a sandbox.

    Attributes:
        status: 200: all of it; 206: the part that was asked for; 416: it has no such part.
        size_b: bytes that come; None when the guest did not say.
        content_range, etag: the headers of these names; empty: none.
    """

    status: int
    size_b: int | None
    content_range: str
    etag: str
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Change:
    """A change in a watched directory; `kind` may also be `started`, `overflow` or `keepalive`."""

    kind: str
    name: str


class Transfers:
    """Files of the sandboxes of one host. `kind` is `files`, `files/tar` or `files/watch`: see docs/design/host-api.md."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def read(
        self, sandbox_id: SandboxId, kind: str, query: Query, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Download]:
        """Open a file or archive for reading; its content is fetched as it is consumed. `headers`: `Range` and `If-Range`.

        Raises:
            NotFound: no such file, or no such sandbox on the host; before any content.
            AgentFailure: (from `chunks`) the content broke off.
        """
        async with self._opened(sandbox_id, kind, query, headers or {}) as response:
            yield Download(
                response.status,
                response.content_length,
                response.headers.get("Content-Range", ""),
                response.headers.get("ETag", ""),
                _content(response),
            )

    @asynccontextmanager
    async def watch(self, sandbox_id: SandboxId, query: Query) -> AsyncGenerator[AsyncIterator[Change]]:
        """Watch a directory; the first change says that none is missed from now on.

        Raises:
            NotFound: no such directory, or no such sandbox on the host; before any change.
            WrennError: (from the iterator) why the watch ended.
        """
        async with self._opened(sandbox_id, "files/watch", query, {}) as response:
            yield _changes(response)

    @asynccontextmanager
    async def _opened(
        self, sandbox_id: SandboxId, kind: str, query: Query, headers: Mapping[str, str]
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        url = self._url(sandbox_id, kind, query)
        headers = {"Accept-Encoding": "identity", **headers}
        try:
            response = await self._connection.request("GET", url, headers=headers, silence_s=IDLE_TIMEOUT_S)
        except (aiohttp.ClientError, OSError) as error:
            raise self._failed(error, silence_s=IDLE_TIMEOUT_S) from error
        try:
            if response.status not in ((200, 206, 416) if "Range" in headers else (200,)):
                raise await _refusal(response)
            yield response
        finally:
            # Of a content that was read to its end the connection is kept already.
            response.close()

    async def write(
        self, sandbox_id: SandboxId, kind: str, query: Query, content: AsyncIterator[bytes]
    ) -> None:
        """Write content to the sandbox. When `content` raises, the transfer is aborted and that error is raised.

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
            response = await self._connection.request(
                "PUT",
                self._url(sandbox_id, kind, query),
                data=noting(),
                headers={"Content-Type": "application/octet-stream"},
                silence_s=_WRITTEN_TIMEOUT_S,
            )
        except (aiohttp.ClientError, OSError) as error:
            if failure:
                raise failure[0] from None
            raise self._failed(error, silence_s=_WRITTEN_TIMEOUT_S) from error
        try:
            if response.status >= 300:
                raise await _refusal(response)
        finally:
            response.close()

    def _failed(self, error: Exception, *, silence_s: float) -> WrennError:
        # A host that cannot be reached at all is another matter: the monitor then looks at it.
        if isinstance(error, aiohttp.SocketTimeoutError):
            return DeadlineExceeded(f"The host did not answer within {silence_s:.0f} s.")
        return self._connection.not_answering(error)

    def _url(self, sandbox_id: SandboxId, kind: str, query: Query) -> URL:
        return self._connection.url(f"/sandboxes/{sandbox_id}/{kind}").with_query(query)


async def _content(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except TimeoutError as error:
        raise DeadlineExceeded(f"The sandbox sent nothing for {IDLE_TIMEOUT_S:.0f} s.") from error
    except (aiohttp.ClientError, OSError) as error:
        raise AgentFailure(
            "The transfer from the sandbox broke off.", context={"cause": cause_of(error)}
        ) from error


async def _changes(response: aiohttp.ClientResponse) -> AsyncIterator[Change]:
    try:
        while line := await response.content.readline(max_line_length=_LINE_LIMIT_B):
            found = cast("dict[str, str]", json.loads(line))
            if found["kind"] == "error":
                raise error_class(found["code"])(found["message"])
            yield Change(found["kind"], found["name"])
    except (ValueError, KeyError, TypeError, HttpProcessingError) as error:
        raise AgentFailure("The host told of a change that cannot be read.") from error
    except TimeoutError as error:
        raise Unavailable("The host of this sandbox does not answer now.") from error
    except (aiohttp.ClientError, OSError) as error:
        raise AgentFailure("The watch broke off.", context={"cause": cause_of(error)}) from error
    raise AgentFailure("The host ended the watch without a reason.")


async def _refusal(response: aiohttp.ClientResponse) -> WrennError:
    """Read the error from the body of a refused transfer."""
    try:
        async with asyncio.timeout(IDLE_TIMEOUT_S):
            body = await read_bounded(response, _ERROR_LIMIT_B, sender="host")
        error = cast("dict[str, Any]", json.loads(body))
        return error_class(str(error["code"]))(str(error["message"]))
    except (ValueError, KeyError, TypeError, AgentFailure, aiohttp.ClientError, OSError):
        return AgentFailure(
            "The host refused the transfer without a reason.", context={"status": response.status}
        )
