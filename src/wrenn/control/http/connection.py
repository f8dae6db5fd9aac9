"""The client's end of a request: work that stops when the client goes away, and responses that are streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wrenn.base.errors import AccessLost, Cancelled, DeadlineExceeded, InvalidRequest, TooLarge
from wrenn.base.tasks import EndedFirst, run_unless
from wrenn.base.units import MIB
from wrenn.control.http.errors import error_response
from wrenn.relay import IncompleteResponse
from wrenn.relay.server import abort_response

T = TypeVar("T")
UPLOAD_SILENCE_S: Final = 60.0
"""How long a client may send nothing of an archive, for which there are few places."""

_SEND_TIMEOUT_S: Final = 600.0
"""A client may take this long to read an answer for which memory is held,"""
_PIECE_TIMEOUT_S: Final = 30.0
"""and this long for each piece of it."""
_UNREAD_TIMEOUT_S: Final = 300.0
"""How long a client may read nothing of a download. By then even a slow one has read what the buffers hold."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`; cancel it when the client goes away. The body must have been read.

    Raises:
        Cancelled: the client went away; nobody sees the answer.
    """
    try:
        return await run_unless(client_gone(request.receive), work)
    except EndedFirst as error:
        raise Cancelled("The client went away.") from error


async def client_gone(receive: Receive) -> None:
    """Return when the client has gone away. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def watching_client(receive: Receive) -> AsyncGenerator[Callable[[], bool]]:
    """Yield a function that tells whether the client has gone away. The body must have been read."""
    gone = asyncio.create_task(client_gone(receive))
    try:
        yield gone.done
    finally:
        gone.cancel()
        await asyncio.wait({gone})


async def body_of(request: Request, *, silence_s: float | None = None) -> AsyncIterator[bytes]:
    """Yield the request's body as it arrives.

    Raises:
        Cancelled: it broke off. DeadlineExceeded: nothing arrived for `silence_s`.
    """
    stream = aiter(request.stream())
    try:
        while True:
            try:
                async with asyncio.timeout(silence_s):
                    chunk = await anext(stream, None)
            except TimeoutError as error:
                raise DeadlineExceeded(f"Nothing of the body was received for {silence_s} s.") from error
            if chunk is None:
                return
            if chunk:
                yield chunk
    except ClientDisconnect as error:
        raise Cancelled("The client went away.") from error


async def read_at_most(pieces: AsyncIterator[bytes], limit_b: int, *, what: str = "The body") -> bytes:
    """Return all of a stream. `limit_b`: whole MiB.

    Raises:
        TooLarge: `what` has more bytes than that.
    """
    content = bytearray()
    async for piece in pieces:
        content += piece
        if len(content) > limit_b:
            raise TooLarge(f"{what} has more than {limit_b // MIB} MiB.")
    return bytes(content)


@dataclass(frozen=True, slots=True)
class Pieces:
    """A JSON body that is generated while it is sent. A short one is sent as a whole, with its length."""

    status: int
    pieces: Iterator[bytes]
    is_short: bool


class PiecesResponse(Response):
    """A JSON response that is generated while it is sent. An error before the first byte becomes an ordinary error response."""

    def __init__(self, opening: AbstractAsyncContextManager[Pieces]) -> None:
        self._opening = opening
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - the interface's
        """Send the response; stops when the client goes away, or takes longer than `_SEND_TIMEOUT_S` or `_PIECE_TIMEOUT_S`."""
        async with self._opening as body:
            headers = [(b"content-type", b"application/json")]
            if body.is_short:
                whole = b"".join(body.pieces)
                headers.append((b"content-length", str(len(whole)).encode()))
                await send({"type": "http.response.start", "status": body.status, "headers": headers})
                await send({"type": "http.response.body", "body": whole})
                return
            try:
                async with asyncio.timeout(_SEND_TIMEOUT_S), watching_client(receive) as is_gone:
                    await send({"type": "http.response.start", "status": body.status, "headers": headers})
                    for piece in body.pieces:
                        if is_gone():
                            return
                        async with asyncio.timeout(_PIECE_TIMEOUT_S):
                            await send({"type": "http.response.body", "body": piece, "more_body": True})
                        # Others get their turn: a client that reads fast never makes `send` wait.
                        await asyncio.sleep(0)
                    await send({"type": "http.response.body", "body": b""})
            except TimeoutError as error:
                raise ConnectionResetError("the client does not read the answer") from error


class Download(Protocol):
    """A file or an archive to send. `status` is 200, 206 for a part of it, or 416 where it has no such part."""

    @property
    def status(self) -> int:
        """Of the answer."""
        ...

    @property
    def size_b(self) -> int | None:
        """How many bytes come; None: that is not known."""
        ...

    @property
    def content_range(self) -> str:
        """The header of this name; empty: none."""
        ...

    @property
    def etag(self) -> str:
        """The header of this name; empty: none."""
        ...

    @property
    def chunks(self) -> AsyncIterator[bytes]:
        """The content."""
        ...


@dataclass(frozen=True, slots=True)
class StreamedBody:
    """A whole body that is generated while it is sent. Implements `Download`. `size_b`: None: it is not known."""

    chunks: AsyncIterator[bytes]
    size_b: int | None = None
    status: int = 200
    content_range: str = ""
    etag: str = ""


class DownloadResponse(Response):
    """A response with a file or an archive. An error before the first byte becomes an ordinary error response."""

    def __init__(
        self,
        opening: AbstractAsyncContextManager[Download],
        media_type: str = "application/octet-stream",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._opening = opening
        self._more_headers = headers or {}
        self.media_type = media_type
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response; stops reading from the sandbox when the client goes away, or reads nothing for `_UNREAD_TIMEOUT_S`."""
        has_begun = False
        try:
            async with self._opening as download:
                if download.status == 416:
                    refusal = error_response(InvalidRequest("The file has no such part."), status=416)
                    refusal.headers["content-range"] = download.content_range
                    await refusal(scope, receive, send)
                    return
                async with watching_client(receive) as is_gone:
                    headers = _headers(download, self.media_type or "", self._more_headers)
                    has_begun = True
                    await send({"type": "http.response.start", "status": download.status, "headers": headers})
                    async for chunk in download.chunks:
                        if is_gone():
                            return
                        try:
                            async with asyncio.timeout(_UNREAD_TIMEOUT_S):
                                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                        except TimeoutError as error:
                            raise IncompleteResponse("The client does not read the answer.") from error
                    await send({"type": "http.response.body", "body": b""})
        except IncompleteResponse as error:
            await abort_response(scope, receive, error)
        except (AccessLost, DeadlineExceeded):
            # Of an answer that is not whole the server closes the connection.
            if not has_begun:
                raise


def _headers(download: Download, media_type: str, more: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    headers = {
        **more,
        "content-type": media_type,
        "content-range": download.content_range,
        "etag": download.etag,
    }
    if download.etag:
        headers["accept-ranges"] = "bytes"
    if download.size_b is not None:
        headers["content-length"] = str(download.size_b)
    return [(name.lower().encode(), value.encode()) for name, value in headers.items() if value]
