"""Server-sent events: frames sent as they come, to a client that may be slow, gone or stuck."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final, Protocol, Self

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

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
    """What is sent: `frames`, until they end or `subscription.over` is set."""

    @property
    def frames(self) -> AsyncIterator[bytes]:
        """What to send."""
        ...

    @property
    def subscription(self) -> _Ending:
        """Tells when to stop, even in the middle of a send."""
        ...


class EventStreamResponse(Response):
    """Made by `opened`, which raises what prevents the stream while that still can be an ordinary error answer."""

    media_type = "text/event-stream"

    def __init__(self, stream: FrameStream, stack: AsyncExitStack) -> None:
        self._stream = stream
        self._stack = stack
        self.background = None

    @classmethod
    async def opened(cls, opening: AbstractAsyncContextManager[FrameStream]) -> Self:
        """The response of a stream that was accepted."""
        async with AsyncExitStack() as stack:
            stream = await stack.enter_async_context(opening)
            return cls(stream, stack.pop_all())

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the stream ends, the client goes away, or takes nothing for too long."""
        async with self._stack:
            sending = asyncio.create_task(self._send_all(send))
            ends = {
                asyncio.create_task(_gone(receive)),
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
        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        try:
            async for frame in self._stream.frames:
                async with asyncio.timeout(_SEND_TIMEOUT_S):
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            return


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
