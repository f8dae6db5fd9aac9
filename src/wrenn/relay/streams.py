"""One byte stream over a WebSocket: binary messages are bytes, the text `eof` says that a side writes no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from wrenn.base.units import KIB
from wrenn.relay.asgi import Receive, Scope, Send, gone_of
from wrenn.relay.pace import Pace

END_OF_STREAM: Final = "eof"
_CHUNK_B: Final = 64 * KIB
_BROKEN: Final = 1011
_LAST_WORDS_S: Final = 5.0


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
    """Accept the client's WebSocket and pass bytes until both sides have written all, or one breaks off.

    A cancellation leaves the client's side open, for the caller to say why.
    """
    await send({"type": "websocket.accept", "headers": []})
    written = asyncio.Event()
    there = asyncio.create_task(_there(writer, receive, traffic, written))
    back = asyncio.create_task(_back(reader, send, traffic, pace))
    last_word = asyncio.create_task(written.wait())
    leaving = asyncio.create_task(gone_of(scope).wait())
    try:
        await asyncio.wait({there, back, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not there.done() and back.done() and back.result():
            # The program has written all; the client may go on.
            await asyncio.wait({there, last_word, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            # What the client said last may still be on its way, but a program that takes nothing is not waited for.
            await asyncio.wait({there}, timeout=_LAST_WORDS_S)
            return
        whole = written.is_set() and back.done() and back.result()
        await send({"type": "websocket.close", "code": 1000 if whole else _BROKEN})
    finally:
        for task in (there, back, last_word, leaving):
            task.cancel()
        await asyncio.wait({there, back, last_word, leaving})
        writer.close()


async def _there(
    writer: asyncio.StreamWriter, receive: Receive, traffic: Callable[[], None], written: asyncio.Event
) -> None:
    """Pass the client's bytes on until it goes away, or nobody reads there; `written`: it said that it wrote all."""
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


async def _back(reader: asyncio.StreamReader, send: Send, traffic: Callable[[], None], pace: Pace) -> bool:
    """Whether the program said that it had written all; False: it broke off."""
    try:
        while data := await reader.read(_CHUNK_B):
            traffic()
            await send({"type": "websocket.send", "bytes": data})
            await pace.passed(size_b=len(data))
    except OSError:
        return False
    await send({"type": "websocket.send", "text": END_OF_STREAM})
    return True
