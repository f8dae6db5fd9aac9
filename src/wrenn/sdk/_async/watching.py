"""Streams file changes in a sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from wrenn.base.on_failure import on_failure_await
from wrenn.sdk._async.api import AsyncApi
from wrenn.sdk._parse import Fields, json_of
from wrenn.sdk._sse import Frames
from wrenn.sdk.errors import ConnectionFailedError, error_for
from wrenn.sdk.types import FileEvent

if TYPE_CHECKING:
    from wrenn.sdk._http import AsyncStream


_SILENCE_S: Final = 60.0
"""The platform sends something three times within this period."""


class AsyncWatch:
    """The changes in a directory. Iterate over it; close it, or use it as a context manager.

    The iteration ends when the watch is closed; otherwise it raises: `InvalidStateError` if the sandbox is
    paused, `NotFoundError` if the directory or the sandbox no longer exists, `ConnectionFailedError` if the
    connection broke.
    """

    def __init__(self, stream: AsyncStream) -> None:
        self._stream = stream
        self._events = _events(stream)
        self._closed = False

    async def start(self) -> None:
        """Wait until no change can be missed; `files.watch` has done this."""
        await anext(self._events)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FileEvent:
        while not self._closed:
            try:
                event = await anext(self._events)
            except ConnectionFailedError:
                if self._closed:
                    raise StopAsyncIteration from None
                raise
            if event is not None:
                return event
        raise StopAsyncIteration

    async def run(self, on_event: Callable[[FileEvent], object]) -> None:
        """Call `on_event` with every change until the watch is closed, for example by `on_event` itself."""
        async for event in self:
            on_event(event)
            if self._closed:
                return

    async def close(self) -> None:
        """Stop watching. Idempotent."""
        self._closed = True
        await self._stream.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def open_watch(api: AsyncApi, url: str, message: Mapping[str, str], *, recursive: bool) -> AsyncWatch:
    """Start watching."""
    params = {**message, "recursive": "true" if recursive else "false"}
    watch = AsyncWatch(await api.open("GET", url, params=params, silence_s=_SILENCE_S))
    async with on_failure_await(watch.close):
        await watch.start()
    return watch


async def _events(stream: AsyncStream) -> AsyncIterator[FileEvent | None]:
    """Yield events; None for the message that watching has begun."""
    frames = Frames()
    async for chunk in stream.chunks():
        for frame in frames.feed(chunk):
            fields = Fields("event", json_of(frame.data.encode()))
            match fields.text("type"):
                case "event":
                    yield FileEvent.parse(fields)
                case "error":
                    raise error_for(0, fields.text("code"), fields.text("message"), stream.request_id)
                case _:
                    yield None
    raise ConnectionFailedError("The watch ended without a reason.", request_sent=True)
