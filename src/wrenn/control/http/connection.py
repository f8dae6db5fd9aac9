"""The client's end of a request: work that ends when the client goes away, and files sent as they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wrenn.base.errors import Cancelled
from wrenn.control.hosts import Download

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
    """A file of a sandbox. What prevents it is an ordinary error answer, until the first byte is there."""

    media_type = "application/octet-stream"

    def __init__(self, opening: AbstractAsyncContextManager[Download]) -> None:
        self._opening = opening
        self.background = None

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; stops reading from the sandbox when the client goes away."""
        async with self._opening as download:
            gone = asyncio.create_task(_gone(receive))
            try:
                headers = [(b"content-type", b"application/octet-stream")]
                if download.size_b is not None:
                    headers.append((b"content-length", str(download.size_b).encode()))
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                async for chunk in download.chunks:
                    if gone.done():
                        return
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            finally:
                gone.cancel()
