"""The only module that uses the WebSocket client: messages, timeouts, translation of errors.

`Socket` runs an `AsyncSocket` in a thread. Unread messages block the platform's side after a few hundred
kilobytes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection as AsyncConnection
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.frames import CloseCode

from wrenn.base.on_failure import on_failure
from wrenn.sdk._error_response import raise_for_status
from wrenn.sdk.errors import ConnectionFailedError, DeadlineExceededError
from wrenn.sdk.settings import ClientSettings

T = TypeVar("T")

_MESSAGE_LIMIT_B: Final = 2 * 1024 * 1024
_WAITING: Final = 4
"""Messages that are read ahead."""
PONG_TIMEOUT_S: Final = 300.0
"""The platform reads nothing from us, not even a ping, while a process does not read its input."""
_CLOSE_TIMEOUT_S: Final = 1.0
"""On close, do not wait long for messages that are in transit."""


def _url(settings: ClientSettings, path: str, params: Mapping[str, str]) -> str:
    url = "ws" + settings.base_url.removeprefix("http") + path
    return f"{url}?{urlencode(params)}" if params else url


def _options(settings: ClientSettings, timeout_s: float) -> dict[str, Any]:
    return {
        "additional_headers": settings.credentials,
        "user_agent_header": "wrenn-python",
        "compression": None,
        "max_size": _MESSAGE_LIMIT_B,
        "max_queue": _WAITING,
        "open_timeout": timeout_s,
        "ping_timeout": PONG_TIMEOUT_S,
        "close_timeout": _CLOSE_TIMEOUT_S,
        "proxy": None if settings.is_local else True,
    }


class DirectConnect(connect_async):
    """Connects to the given URL and follows no redirects: the API key would go along to any other host."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Return the error for the response, whatever it is."""
        return exc


@contextmanager
def _opening(settings: ClientSettings) -> Generator[None]:
    try:
        yield
    except InvalidStatus as error:
        response = error.response
        raise_for_status(
            response.status_code, bytes(response.body or b""), response.headers.get("x-request-id")
        )
        raise ConnectionFailedError("The platform opened no WebSocket.", request_sent=True) from error
    except (InvalidHandshake, EOFError) as error:
        raise ConnectionFailedError(
            f"The platform at {settings.base_url} opened no WebSocket: {error}.", request_sent=True
        ) from error
    except (OSError, TimeoutError) as error:
        raise ConnectionFailedError(
            f"The platform at {settings.base_url} cannot be reached: {error or 'no connection in time'}.",
            request_sent=False,
        ) from error


@contextmanager
def _open() -> Generator[None]:
    try:
        yield
    except ConnectionClosed as error:
        raise ConnectionFailedError(
            "The connection to the platform ended before the stream did.", request_sent=True
        ) from error
    except TimeoutError as error:
        raise DeadlineExceededError("Nothing came in time.") from error
    except OSError as error:
        raise ConnectionFailedError(
            f"The connection to the platform broke: {error}.", request_sent=True
        ) from error


class AsyncSocket:
    """An open WebSocket. One task may read while others write."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @classmethod
    async def open(
        cls, settings: ClientSettings, path: str, params: Mapping[str, str], *, timeout_s: float
    ) -> Self:
        """Connect within `timeout_s`."""
        with _opening(settings):
            return cls(await DirectConnect(_url(settings, path, params), **_options(settings, timeout_s)))

    async def send(self, message: str | bytes) -> None:
        """Send a message; waits while the platform does not read it."""
        with _open():
            await self._connection.send(message)

    async def receive(self, timeout_s: float | None) -> str | bytes:
        """Return the next message. Raises DeadlineExceededError, after which no message is lost."""
        with _open():
            async with asyncio.timeout(timeout_s):
                return await self._connection.recv()

    @property
    def was_ended(self) -> bool:
        """Whether the platform has closed the connection normally; buffered messages can still be read."""
        closed = self._connection.protocol.close_rcvd
        return closed is not None and closed.code == CloseCode.NORMAL_CLOSURE

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        await self._connection.close()


class _LoopThread:
    """An event loop in its own thread, from construction until `close()`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        # Guards `_is_closed`: work that `run` accepted is scheduled before the loop stops, and is therefore
        # cancelled by it.
        self._lock = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name="wrenn-websocket", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        # On exit the runner cancels all remaining tasks and waits for them.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._wait_stop())

    async def _wait_stop(self) -> None:
        await self._stopping.wait()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the loop and return its result. An interrupt of the calling thread cancels it.

        Raises:
            ConnectionFailedError: the loop was closed before or while `work` ran.
        """
        with self._lock:
            if self._is_closed:
                work.close()
                raise ConnectionFailedError("The connection has been closed.", request_sent=True)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            # An interrupt ends the wait, not the work.
            with on_failure(future.cancel):
                return future.result()
        except CancelledError as error:
            raise ConnectionFailedError("The connection has been closed.", request_sent=True) from error

    def close(self) -> None:
        """Cancel all tasks and end the thread. Idempotent."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()


class Socket:
    """An open WebSocket. One thread reads, others may write.

    It is an `AsyncSocket` whose event loop runs in a thread. The library's synchronous connection would not do: it reads and
    writes under one lock, so a write that waits for the platform stops the reading that the platform waits for.
    """

    def __init__(self, socket: AsyncSocket, loop: _LoopThread) -> None:
        self._socket = socket
        self._loop = loop

    @classmethod
    def open(
        cls, settings: ClientSettings, path: str, params: Mapping[str, str], *, timeout_s: float
    ) -> Self:
        """Connect within `timeout_s`."""
        loop = _LoopThread()
        with on_failure(loop.close):
            return cls(loop.run(AsyncSocket.open(settings, path, params, timeout_s=timeout_s)), loop)

    def send(self, message: str | bytes) -> None:
        """Send a message; waits while the platform does not read it."""
        self._loop.run(self._socket.send(message))

    def receive(self, timeout_s: float | None) -> str | bytes:
        """Return the next message. Raises DeadlineExceededError, after which no message is lost."""
        return self._loop.run(self._socket.receive(timeout_s))

    @property
    def was_ended(self) -> bool:
        """Whether the platform has closed the connection normally; buffered messages can still be read."""
        return self._socket.was_ended

    def close(self) -> None:
        """Close the connection. Idempotent."""
        try:
            with suppress(ConnectionFailedError):
                self._loop.run(self._socket.close())
        finally:
            self._loop.close()
