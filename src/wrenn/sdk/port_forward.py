"""A TCP port of this machine whose connections go to a port of a sandbox: what `wrenn port` runs. Asynchronous only.

Each connection is a WebSocket of its own: binary messages are bytes, the text `eof` says that a side writes no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from wrenn.sdk._refusal import refusal
from wrenn.sdk.errors import ConnectionFailedError, WrennError
from wrenn.sdk.settings import ClientSettings

_END: Final = "eof"
_CHUNK_B: Final = 64 * 1024
_MESSAGE_LIMIT_B: Final = 1024 * 1024
_CONNECTIONS: Final = 256
"""At once; the next one waits until another ends."""
_OPEN_TIMEOUT_S: Final = 60.0
"""A sandbox with `auto_resume` may have to be resumed first."""


@asynccontextmanager
async def forwarded_port(
    settings: ClientSettings,
    sandbox_id: str,
    port: int,
    *,
    local_address: str = "127.0.0.1",
    local_port: int = 0,
    on_error: Callable[[WrennError], object] = lambda _: None,
) -> AsyncGenerator[int]:
    """Listen within the block; gives the local port, which the system chooses for 0. All connections end with the block.

    `on_error` is told why a connection could not be passed on; that connection is closed, the others go on.

    Raises:
        OSError: the local port is not free.
    """
    places = asyncio.Semaphore(_CONNECTIONS)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "connections are served by tasks"
        tasks.add(task)
        try:
            async with places, _opened(settings, sandbox_id, port) as tunnel:
                await _join(tunnel, reader, writer)
        except WrennError as error:
            on_error(error)
        except asyncio.CancelledError:
            pass  # the block has ended
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, local_address, local_port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


@asynccontextmanager
async def _opened(settings: ClientSettings, sandbox_id: str, port: int) -> AsyncGenerator[ClientConnection]:
    url = f"ws{settings.base_url.removeprefix('http')}/v1/sandboxes/{sandbox_id}/ports/{port}/tunnel"
    try:
        tunnel = await connect(
            url,
            additional_headers=settings.credentials,
            compression=None,
            max_size=_MESSAGE_LIMIT_B,
            open_timeout=_OPEN_TIMEOUT_S,
            proxy=None if settings.is_local else True,
        )
    except InvalidStatus as error:
        answer = error.response
        request_id = answer.headers.get("X-Request-Id")
        raise refusal(answer.status_code, bytes(answer.body or b""), request_id) from error
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise ConnectionFailedError(
            f"The platform at {settings.base_url} cannot be reached: {error or 'no connection in time'}.",
            request_sent=False,
        ) from error
    async with tunnel:
        yield tunnel


async def _join(tunnel: ClientConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    there = asyncio.create_task(_there(tunnel, reader))
    back = asyncio.create_task(_back(tunnel, writer))
    try:
        # The way back ends last: with the tunnel, once both sides have written all.
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        if not back.done() and not there.cancelled() and there.result():
            await asyncio.wait({back})
    finally:
        for task in (there, back):
            task.cancel()
        await asyncio.wait({there, back})


async def _there(tunnel: ClientConnection, reader: asyncio.StreamReader) -> bool:
    """Whether the local program said that it had written all; False: it or the tunnel broke off."""
    with suppress(OSError, ConnectionClosed):
        while data := await reader.read(_CHUNK_B):
            await tunnel.send(data)
        await tunnel.send(_END)
        return True
    return False


async def _back(tunnel: ClientConnection, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, ConnectionClosed):
        async for message in tunnel:
            if isinstance(message, bytes):
                writer.write(message)
                await writer.drain()
            elif message == _END:
                writer.write_eof()
