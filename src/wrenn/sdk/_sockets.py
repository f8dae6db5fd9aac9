"""The only module that knows the WebSocket client: messages, time limits, errors translated.

`AsyncSocket` and `Socket` are twins. Messages that are not read hold the platform up after a few hundred kilobytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final, Self, cast
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection as AsyncConnection
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection as Connection
from websockets.sync.client import connect

from wrenn.sdk._refusal import check
from wrenn.sdk.errors import ConnectionFailedError, DeadlineExceededError
from wrenn.sdk.settings import ClientSettings

_MESSAGE_LIMIT_B: Final = 2 * 1024 * 1024
_WAITING: Final = 4
"""Messages read ahead."""
_PONG_TIMEOUT_S: Final = 300.0
"""Nothing is read from us, not even a ping, while the input of a process waits for it."""
_CLOSE_TIMEOUT_S: Final = 1.0
"""Who leaves while much is on the way does not wait for it to come."""


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
        "ping_timeout": _PONG_TIMEOUT_S,
        "close_timeout": _CLOSE_TIMEOUT_S,
        "proxy": None if settings.is_local else True,
    }


@contextmanager
def _opening(settings: ClientSettings) -> Generator[None]:
    try:
        yield
    except InvalidStatus as error:
        response = error.response
        check(response.status_code, bytes(response.body or b""), response.headers.get("x-request-id"))
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
    """An open WebSocket. One task reads, others may write."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @classmethod
    async def open(
        cls, settings: ClientSettings, path: str, params: Mapping[str, str], *, timeout_s: float
    ) -> Self:
        """Connect within `timeout_s`."""
        with _opening(settings):
            return cls(await connect_async(_url(settings, path, params), **_options(settings, timeout_s)))

    async def send(self, message: str | bytes) -> None:
        """Send a message; waits while the platform does not take it."""
        with _open():
            await self._connection.send(message)

    async def receive(self, timeout_s: float | None) -> str | bytes:
        """The next message. Raises DeadlineExceededError; nothing is lost then."""
        with _open():
            async with asyncio.timeout(timeout_s):
                return await self._connection.recv()

    async def close(self) -> None:
        """Close it. May be called twice."""
        await self._connection.close()


class Socket:
    """An open WebSocket. One thread reads, others may write."""

    def __init__(self, connection: Connection, closing: ExitStack) -> None:
        self._connection = connection
        self._closing = closing

    @classmethod
    def open(
        cls, settings: ClientSettings, path: str, params: Mapping[str, str], *, timeout_s: float
    ) -> Self:
        """Connect within `timeout_s`."""
        with _opening(settings):
            # The library opens connections as context managers only; this one outlives a block.
            closing = ExitStack()
            opening = cast("Any", connect)(_url(settings, path, params), **_options(settings, timeout_s))
            return cls(closing.enter_context(cast("AbstractContextManager[Connection]", opening)), closing)

    def send(self, message: str | bytes) -> None:
        """Send a message; waits while the platform does not take it."""
        with _open():
            self._connection.send(message)

    def receive(self, timeout_s: float | None) -> str | bytes:
        """The next message. Raises DeadlineExceededError; nothing is lost then."""
        with _open():
            return self._connection.recv(timeout=timeout_s)

    def close(self) -> None:
        """Close it. May be called twice."""
        self._closing.close()
