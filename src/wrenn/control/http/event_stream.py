"""Responses of server-sent events, to clients that may be slow, gone or stuck."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Final, Protocol, Self

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wrenn.base.errors import AccessLost, WrennError
from wrenn.base.tasks import EndedFirst, run_unless
from wrenn.control.http.connection import client_gone

_SEND_TIMEOUT_S: Final = 20.0
"""For a client that takes nothing: the server's buffer, which is small, is full all this time."""
_LAST_SEND_S: Final = 0.5
"""For the frame that is on its way when the stream is to end."""
_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Of proxies that would hold frames back until they have many.
    (b"x-accel-buffering", b"no"),
]


class _Ending(Protocol):
    over: asyncio.Event


class FrameStream(Protocol):
    """What an event stream sends: `frames`, until they end or `subscription.over` is set."""

    @property
    def frames(self) -> AsyncIterator[bytes]:
        """What to send."""
        ...

    @property
    def subscription(self) -> _Ending:
        """Tells when to stop, even in the middle of a send."""
        ...


class EventStreamResponse(Response):
    """A response of server-sent events. `opened` raises errors while they can still be ordinary error responses."""

    media_type = "text/event-stream"

    def __init__(self, stream: FrameStream, stack: AsyncExitStack) -> None:
        self._stream = stream
        self._stack = stack
        self.background = None

    @classmethod
    async def opened(cls, opening: AbstractAsyncContextManager[FrameStream]) -> Self:
        """Open the stream and return its response."""
        async with AsyncExitStack() as stack:
            stream = await stack.enter_async_context(opening)
            return cls(stream, stack.pop_all())

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the stream ends, the client goes away, or takes nothing for too long."""
        async with self._stack:
            sending = asyncio.create_task(self._send_all(send))
            ends = {
                asyncio.create_task(client_gone(receive)),
                asyncio.create_task(self._stream.subscription.over.wait()),
            }
            try:
                await asyncio.wait({sending, *ends}, return_when=asyncio.FIRST_COMPLETED)
                if self._stream.subscription.over.is_set():
                    await asyncio.wait({sending}, timeout=_LAST_SEND_S)
                if sending.done():
                    sending.result()
            finally:
                # Of an answer that is not whole the server closes the connection.
                for task in (sending, *ends):
                    task.cancel()
                await asyncio.wait({sending, *ends})

    async def _send_all(self, send: Send) -> None:
        await _begin(send)
        try:
            async for frame in self._stream.frames:
                await _send_frame(send, frame)
            await _end(send)
        except TimeoutError:
            return


class EventsResponse(Response):
    """A response of events as JSON. None is sent as a comment that keeps the connection alive.

    What prevents them is an ordinary error answer; what ends them later is the last event.
    """

    media_type = "text/event-stream"

    def __init__(self, opening: AbstractAsyncContextManager[AsyncIterator[Mapping[str, str] | None]]) -> None:
        self._opening = opening
        self.background = None

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send until they end, the client goes away, or takes nothing for too long."""
        with suppress(EndedFirst):
            await run_unless(client_gone(receive), self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        has_begun = False
        try:
            try:
                async with self._opening as events:
                    # The first one decides whether this becomes an error answer.
                    event = await anext(events)
                    await _begin(send)
                    has_begun = True
                    while True:
                        await _send_frame(send, _frame(event))
                        event = await anext(events)
            except WrennError as error:
                if not has_begun:
                    raise
                last = {"type": "error", "code": error.code, "message": error.message}
                timeout_s = _LAST_SEND_S if isinstance(error, AccessLost) else None
                await _send_frame(send, _frame(last), timeout_s=timeout_s)
            await _end(send)
        except TimeoutError:
            return


def _frame(event: Mapping[str, str] | None) -> bytes:
    return (": silence\n\n" if event is None else f"data: {json.dumps(event)}\n\n").encode()


async def _begin(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})


async def _send_frame(send: Send, frame: bytes, *, timeout_s: float | None = None) -> None:
    """Raises TimeoutError: the client takes nothing. Of an answer that is not whole the server closes the connection."""
    async with asyncio.timeout(_SEND_TIMEOUT_S if timeout_s is None else timeout_s):
        await send({"type": "http.response.body", "body": frame, "more_body": True})


async def _end(send: Send) -> None:
    async with asyncio.timeout(_SEND_TIMEOUT_S):
        await send({"type": "http.response.body", "body": b""})
