"""The client's end of a request: work that ends when the client goes away, and files and events sent as they arrive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wrenn.base.errors import Cancelled, InvalidRequest, WrennError
from wrenn.control.hosts import Download
from wrenn.control.http.errors import error_response

T = TypeVar("T")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`; cancel it when the client goes away. The body must have been read.

    Raises:
        Cancelled: the client went away; nobody sees the answer.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Cancelled("The client went away.")
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def body_of(request: Request) -> AsyncIterator[bytes]:
    """The request's body as it arrives.

    Raises:
        Cancelled: it broke off.
    """
    try:
        async for chunk in request.stream():
            if chunk:
                yield chunk
    except ClientDisconnect as error:
        raise Cancelled("The client went away.") from error


class DownloadResponse(Response):
    """A file or an archive of a sandbox. What prevents it is an ordinary error answer, until the first byte is there."""

    def __init__(
        self, opening: AbstractAsyncContextManager[Download], media_type: str = "application/octet-stream"
    ) -> None:
        self._opening = opening
        self.media_type = media_type
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; stops reading from the sandbox when the client goes away."""
        async with self._opening as download:
            if download.status == 416:
                refusal = error_response(InvalidRequest("The file has no such part."), status=416)
                refusal.headers["content-range"] = download.content_range
                await refusal(scope, receive, send)
                return
            gone = asyncio.create_task(_gone(receive))
            try:
                await send(
                    {
                        "type": "http.response.start",
                        "status": download.status,
                        "headers": _headers(download, self.media_type or ""),
                    }
                )
                async for chunk in download.chunks:
                    if gone.done():
                        return
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            finally:
                gone.cancel()


def _headers(download: Download, media_type: str) -> list[tuple[bytes, bytes]]:
    headers = {"content-type": media_type, "content-range": download.content_range, "etag": download.etag}
    if download.etag:
        headers["accept-ranges"] = "bytes"
    if download.size_b is not None:
        headers["content-length"] = str(download.size_b)
    return [(name.encode(), value.encode()) for name, value in headers.items() if value]


class EventsResponse(Response):
    """Server-sent events, as they happen; None stands for silence, of which the client is told that it is one.

    What prevents them is an ordinary error answer; what ends them later is the last event.
    """

    media_type = "text/event-stream"

    def __init__(self, opening: AbstractAsyncContextManager[AsyncIterator[Mapping[str, str] | None]]) -> None:
        self._opening = opening
        self.background = None

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send them for as long as the client listens."""
        sending = asyncio.create_task(self._send(send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, gone):
                task.cancel()
            await asyncio.wait({sending, gone})
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            # Of a proxy that would else wait for more.
            (b"x-accel-buffering", b"no"),
        ]
        async with self._opening as events:
            # The first one decides whether this becomes an error answer.
            event = await anext(events)
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                while True:
                    await _send_event(send, event)
                    event = await anext(events)
            except WrennError as error:
                last = {"type": "error", "code": error.code, "message": error.message}
                await _send_event(send, last)
            await send({"type": "http.response.body", "body": b""})


async def _send_event(send: Send, event: Mapping[str, str] | None) -> None:
    text = ": silence\n\n" if event is None else f"data: {json.dumps(event)}\n\n"
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
