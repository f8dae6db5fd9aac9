"""Forwards connections from a local TCP port to a port of a sandbox: used by `wrenn port`. Asynchronous only.

Each connection uses its own WebSocket: binary messages are bytes, the text message `eof` is the end of one
direction.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from wrenn.sdk._error_response import error_of_response
from wrenn.sdk._sockets import PONG_TIMEOUT_S, DirectConnect
from wrenn.sdk.errors import ConnectionFailedError, WrennError
from wrenn.sdk.settings import ClientSettings

_END: Final = "eof"
_CHUNK_B: Final = 64 * 1024
_MESSAGE_LIMIT_B: Final = 1024 * 1024
_CONNECTIONS: Final = 256
"""Concurrent connections; further ones wait."""
_OPEN_TIMEOUT_S: Final = 60.0
"""Long enough to resume a sandbox with `auto_resume` first."""


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
    """Listen on a local port within the block and yield its number; 0 lets the system choose. Leaving the block closes all connections.

    `on_error` is called if a connection could not be forwarded; that connection is closed, the others
    continue.

    Raises:
        OSError: the local port is in use.
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
        tunnel = await DirectConnect(
            url,
            additional_headers=settings.credentials,
            compression=None,
            max_size=_MESSAGE_LIMIT_B,
            open_timeout=_OPEN_TIMEOUT_S,
            ping_timeout=PONG_TIMEOUT_S,
            proxy=None if settings.is_local else True,
        )
    except InvalidStatus as error:
        answer = error.response
        request_id = answer.headers.get("X-Request-Id")
        raise error_of_response(answer.status_code, bytes(answer.body or b""), request_id) from error
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise ConnectionFailedError(
            f"The platform at {settings.base_url} cannot be reached: {error or 'no connection in time'}.",
            request_sent=False,
        ) from error
    async with tunnel:
        yield tunnel


async def _join(tunnel: ClientConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Forward both directions until both have ended, or the local program has gone.

    Raises:
        ConnectionFailedError: the tunnel broke. The local connection is reset, so that what came is not taken for everything.
    """
    to_tunnel = asyncio.create_task(_local_to_tunnel(tunnel, reader))
    to_local = asyncio.create_task(_tunnel_to_local(tunnel, writer))
    try:
        # The direction from the tunnel ends last: with the tunnel, once both sides have sent everything.
        await asyncio.wait({to_tunnel, to_local}, return_when=asyncio.FIRST_COMPLETED)
        if not to_local.done() and to_tunnel.result():
            await asyncio.wait({to_local})
        if to_local.done() and not to_local.result():
            _reset(writer)
            raise ConnectionFailedError(
                "The connection to the sandbox's port broke before all was transferred.", request_sent=True
            )
    finally:
        for task in (to_tunnel, to_local):
            task.cancel()
        await asyncio.wait({to_tunnel, to_local})


def _reset(writer: asyncio.StreamWriter) -> None:
    # With a linger time of 0 the system closes by a reset.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _local_to_tunnel(tunnel: ClientConnection, reader: asyncio.StreamReader) -> bool:
    """Forward the local program's bytes. Returns False if that program has gone; a tunnel that broke ends the other direction."""
    try:
        while data := await reader.read(_CHUNK_B):
            await tunnel.send(data)
        await tunnel.send(_END)
    except ConnectionClosed:
        pass
    except OSError:
        return False
    return True


async def _tunnel_to_local(tunnel: ClientConnection, writer: asyncio.StreamWriter) -> bool:
    """Forward the bytes of the sandbox. Returns False if the tunnel broke before the sandbox had ended its direction."""
    ended = False
    try:
        async for message in tunnel:
            if isinstance(message, bytes):
                writer.write(message)
                await writer.drain()
            elif message == _END:
                ended = True
                writer.write_eof()
    except ConnectionClosed:
        pass
    except OSError:
        return True  # the local program has gone
    return ended
