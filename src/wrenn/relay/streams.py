"""Proxies one byte stream over a WebSocket: binary messages are bytes, the text message `eof` is the end of one direction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from wrenn.base.units import KIB
from wrenn.relay.asgi import Receive, Scope, Send, disconnect_event
from wrenn.relay.pace import Pace

END_OF_STREAM: Final = "eof"
_CHUNK_B: Final = 64 * KIB
_BROKEN: Final = 1011
_DRAIN_TIMEOUT_S: Final = 5.0


async def relay_stream(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    traffic: Callable[[], None],
    pace: Pace,
) -> None:
    """Accept the client's WebSocket and forward bytes until both directions have ended or one side disconnects.

    On cancellation the client's side stays open, so that the caller can close it with a code of its own.
    """
    await send({"type": "websocket.accept", "headers": []})
    written = asyncio.Event()
    to_peer = asyncio.create_task(_client_to_peer(writer, receive, traffic, written))
    to_client = asyncio.create_task(_peer_to_client(reader, send, traffic, pace))
    client_eof = asyncio.create_task(written.wait())
    disconnect = asyncio.create_task(disconnect_event(scope).wait())
    try:
        await asyncio.wait({to_peer, to_client, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not to_peer.done() and to_client.done() and to_client.result():
            # The program has ended its direction; the client may go on sending.
            await asyncio.wait({to_peer, client_eof, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if disconnect.done():
            # The client's last bytes may still be in transit, but do not wait long for a program that takes
            # nothing.
            await asyncio.wait({to_peer}, timeout=_DRAIN_TIMEOUT_S)
            return
        whole = written.is_set() and to_client.done() and to_client.result()
        await send({"type": "websocket.close", "code": 1000 if whole else _BROKEN})
    finally:
        for task in (to_peer, to_client, client_eof, disconnect):
            task.cancel()
        await asyncio.wait({to_peer, to_client, client_eof, disconnect})
        writer.close()


async def _client_to_peer(
    writer: asyncio.StreamWriter, receive: Receive, traffic: Callable[[], None], written: asyncio.Event
) -> None:
    """Forward the client's bytes until it disconnects or the program stops reading. Sets `written` at the client's `eof`."""
    with suppress(OSError):
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            if (data := message.get("bytes")) is not None:
                traffic()
                writer.write(data)
                await writer.drain()
            elif message.get("text") == END_OF_STREAM and not written.is_set():
                written.set()
                writer.write_eof()


async def _peer_to_client(
    reader: asyncio.StreamReader, send: Send, traffic: Callable[[], None], pace: Pace
) -> bool:
    """Forward the program's bytes. Returns True if the program ended its direction, False if the connection broke."""
    try:
        while data := await reader.read(_CHUNK_B):
            traffic()
            await send({"type": "websocket.send", "bytes": data})
            await pace.passed(size_b=len(data))
    except OSError:
        return False
    await send({"type": "websocket.send", "text": END_OF_STREAM})
    return True
